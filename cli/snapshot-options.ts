/** What may be asked of a snapshot, of a volume or of a VM. */
import { type Command, InvalidArgumentError, Option } from "commander";
import type { CreateSnapshotInput } from "../lambdas/api/request-schemas.ts";
import type { Client } from "./api-client.ts";
import { findStore } from "./context.ts";

type BackupVerification = NonNullable<CreateSnapshotInput["verify"]>;
const verifications: readonly BackupVerification[] = ["checksum", "full"];

const quiesceModes = { always: true, preferred: "preferred" } as const;

export interface SnapshotOptions {
  readonly name?: string;
  readonly description?: string;
  readonly tag?: Readonly<Record<string, string>>;
  readonly store?: string;
  readonly async?: boolean;
  readonly verify?: BackupVerification;
  readonly full?: boolean;
  readonly quiesce?: keyof typeof quiesceModes;
}

/** Adds the options, and `--watch`. */
export function snapshotOptions(command: Command): Command {
  return command
    .option("--name <name>", "a name for the snapshot")
    .option("--description <text>", "more about it")
    .option("--tag <key=value>", "a tag; may be given several times", addTag)
    .option("--store <store>", "where the backup goes (name or id)")
    .addOption(
      new Option("--verify <how>", "how it is checked before it is published: full reads every byte back").choices(
        verifications,
      ),
    )
    .option("--full", "read the whole volume and use nothing of earlier backups again")
    .addOption(
      new Option(
        "--quiesce <when>",
        "flush and hold the guest's file systems for the moment: always, or fail; preferred, where they can be",
      ).choices(Object.keys(quiesceModes)),
    )
    .option("--async", "the job is done as soon as the snapshot is on primary storage")
    .option("--watch", "follow it to the end");
}

function addTag(text: string, tags: Readonly<Record<string, string>> = {}): Record<string, string> {
  const split = text.indexOf("=");
  if (split < 1) throw new InvalidArgumentError("A tag is KEY=VALUE.");
  return { ...tags, [text.slice(0, split)]: text.slice(split + 1) };
}

/** The request that the options make. Throws CliError when the store is not there. */
export async function snapshotBody(client: Client, options: SnapshotOptions): Promise<CreateSnapshotInput> {
  const { name, description, tag, store, verify, quiesce } = options;
  return {
    ...(name === undefined ? {} : { name }),
    ...(description === undefined ? {} : { description }),
    ...(tag === undefined ? {} : { tags: { ...tag } }),
    ...(store === undefined ? {} : { storeId: await findStore(client, store) }),
    ...(options.async ? { asyncBackup: true } : {}),
    ...(verify === undefined ? {} : { verify }),
    ...(options.full ? { full: true } : {}),
    ...(quiesce === undefined ? {} : { quiesce: quiesceModes[quiesce] }),
  };
}
