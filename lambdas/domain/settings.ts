/** The settings: names, units, defaults, bounds. The one place that the stack, the functions and the documentation read them from. Pure. */
import { type PrimaryRetention, primaryRetentions } from "./primary-retention.ts";

export class InvalidSetting extends Error {
  override readonly name = "InvalidSetting";
}

interface IntegerSetting {
  readonly type: "integer";
  readonly default: number;
  readonly minimum: number;
  readonly maximum: number;
  readonly unit?: "seconds" | "percent";
  readonly description: string;
}

interface ChoiceSetting {
  readonly type: "choice";
  readonly default: string;
  readonly choices: readonly string[];
  readonly description: string;
}

export const settingDefinitions = {
  "backup.max.attempts": {
    type: "integer",
    default: 3,
    minimum: 1,
    maximum: 20,
    description: "Attempts of a backup in all. `backup.retry` is an alias that counts the retries after the first.",
  },
  "backup.retry.interval": {
    type: "integer",
    default: 300,
    minimum: 0,
    maximum: 86_400,
    unit: "seconds",
    description: "Pause between two attempts of a backup.",
  },
  "backup.pool.size": {
    type: "integer",
    default: 4,
    minimum: 1,
    maximum: 1000,
    description: "Backups that run at once. It never delays the creation of snapshots. Read live.",
  },
  "backup.on.failure": {
    type: "choice",
    default: "delete",
    choices: ["delete", "keep"],
    description: "What becomes of the copy on primary storage when a backup has used up its attempts.",
  },
  "primary.retain": {
    type: "choice",
    default: "reference",
    choices: primaryRetentions,
    description:
      "Which copies on primary storage outlive their backups: the newest of a volume as reference of the next backup, where the hypervisor tracks changes; none; or all.",
  },
  "primary.maxChain": {
    type: "integer",
    default: 16,
    minimum: 2,
    maximum: 100,
    description:
      "Copies of a volume on primary storage that form one chain with it, at most: with so many no further snapshot is taken.",
  },
  "error.grace": {
    type: "integer",
    default: 900,
    minimum: 0,
    maximum: 2_592_000,
    unit: "seconds",
    description: "How long a snapshot stays in Error before garbage collection deletes it.",
  },
  "reconcile.after": {
    type: "integer",
    default: 60,
    minimum: 0,
    maximum: 86_400,
    unit: "seconds",
    description: "How long a job may say nothing before its execution is looked at.",
  },
  "late.writer.grace": {
    type: "integer",
    default: 960,
    minimum: 0,
    maximum: 86_400,
    unit: "seconds",
    description:
      "How long after an execution's end a worker of it may still write: the longest Lambda (900 s) and a minute.",
  },
  "hint.audit.percent": {
    type: "integer",
    default: 1,
    minimum: 0,
    maximum: 100,
    unit: "percent",
    description:
      "Share of the ranges that change tracking calls unchanged which a backup reads all the same, to find lies.",
  },
  "verify.sample.percent": {
    type: "integer",
    default: 1,
    minimum: 0,
    maximum: 100,
    unit: "percent",
    description: "Share of each backup's chunks that the scheduled check reads back.",
  },
} as const satisfies Record<string, IntegerSetting | ChoiceSetting>;

export type SettingName = keyof typeof settingDefinitions;
export const settingNames = Object.keys(settingDefinitions) as SettingName[];

export interface Settings {
  readonly maxAttempts: number;
  readonly retryIntervalSeconds: number;
  readonly poolSize: number;
  readonly onBackupFailure: "delete" | "keep";
  readonly primaryRetention: PrimaryRetention;
  /** At least 2: a reference, and the snapshot that is backed up against it. */
  readonly maxPrimaryChain: number;
  readonly errorGraceSeconds: number;
  readonly reconcileAfterSeconds: number;
  readonly lateWriterGraceSeconds: number;
  /** 0 to 100. */
  readonly hintAuditPercent: number;
  /** 0 to 100. */
  readonly verifySamplePercent: number;
}

/** One setting's text, checked. Throws InvalidSetting with the name, the bounds and what was given. */
export function checkSetting(name: SettingName, text: string): string {
  const definition: IntegerSetting | ChoiceSetting = settingDefinitions[name];
  if (definition.type === "choice") {
    if (definition.choices.includes(text)) return text;
    throw new InvalidSetting(`${name} must be ${definition.choices.join(" or ")}, not "${text}"`);
  }
  const value = Number(text);
  if (/^\d{1,9}$/.test(text) && value >= definition.minimum && value <= definition.maximum) return String(value);
  const unit = definition.unit ? ` ${definition.unit}` : "";
  throw new InvalidSetting(
    `${name} must be a whole number from ${definition.minimum} to ${definition.maximum}${unit}, not "${text}"`,
  );
}

/**
 * The texts that the stack writes to its parameters: what was given over the defaults, with the alias resolved
 * (`backup.retry` = N means `backup.max.attempts` = N + 1).
 */
export function settingTexts(given: (name: string) => string | undefined): Record<SettingName, string> {
  const attempts = given("backup.max.attempts");
  const alias = given("backup.retry");
  let aliasAttempts: string | undefined;
  if (alias !== undefined) {
    if (!/^\d{1,2}$/.test(alias))
      throw new InvalidSetting(`backup.retry must be a whole number from 0 to 19, not "${alias}"`);
    aliasAttempts = String(Number(alias) + 1);
    if (attempts !== undefined && attempts !== aliasAttempts)
      throw new InvalidSetting(
        `backup.retry (${alias}) and backup.max.attempts (${attempts}) contradict each other: the first counts the retries, the second all attempts; give one of them`,
      );
  }
  const texts = {} as Record<SettingName, string>;
  for (const name of settingNames) {
    const text = name === "backup.max.attempts" ? (attempts ?? aliasAttempts) : given(name);
    texts[name] = checkSetting(name, text ?? String(settingDefinitions[name].default));
  }
  return texts;
}

/** The settings as the functions use them. What is missing has its default. Throws InvalidSetting. */
export function parseSettings(texts: Partial<Record<SettingName, string>>): Settings {
  const text = (name: SettingName) => checkSetting(name, texts[name] ?? String(settingDefinitions[name].default));
  return {
    maxAttempts: Number(text("backup.max.attempts")),
    retryIntervalSeconds: Number(text("backup.retry.interval")),
    poolSize: Number(text("backup.pool.size")),
    onBackupFailure: text("backup.on.failure") === "keep" ? "keep" : "delete",
    primaryRetention: text("primary.retain") as PrimaryRetention,
    maxPrimaryChain: Number(text("primary.maxChain")),
    errorGraceSeconds: Number(text("error.grace")),
    reconcileAfterSeconds: Number(text("reconcile.after")),
    lateWriterGraceSeconds: Number(text("late.writer.grace")),
    hintAuditPercent: Number(text("hint.audit.percent")),
    verifySamplePercent: Number(text("verify.sample.percent")),
  };
}
