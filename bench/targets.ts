/** What Snapferry's engine is held to, as data, and how it does. */
import type { Action } from "./contender.ts";
import { engineName } from "./engine/engine.ts";
import type { Limits } from "./limits/limits.ts";
import type { Summary } from "./summary.ts";

const mebibyte = 1024 * 1024;

/** Names of what is special about a course. */
export const scenarios = { plain: "plain", proxy: "proxy", delayed: "proxy, delayed", thin: "thin" } as const;
type Scenario = (typeof scenarios)[keyof typeof scenarios];

type Quantity = "wallSeconds" | "clientSeconds" | "storedBytes" | "peakBytes";

/** What a quantity is divided by. */
type Reference =
  /** The least of all peers, of their `action`. */
  | { readonly kind: "best-peer"; readonly action: Action }
  | { readonly kind: "peer"; readonly name: string; readonly action: Action }
  /** The derived limit of this machine. */
  | { readonly kind: "limit" }
  /** The changed blocks, each compressed for itself. */
  | { readonly kind: "changed-blocks" }
  /** The same through the proxy without delay. */
  | { readonly kind: "undelayed" }
  | { readonly kind: "bytes"; readonly bytes: number };

export interface Target {
  readonly scenario: Scenario;
  readonly action: Action;
  readonly quantity: Quantity;
  readonly reference: Reference;
  readonly atMost: number;
}

const { plain, delayed, thin } = scenarios;
const memory: Reference = { kind: "bytes", bytes: 512 * mebibyte };

export const targets: readonly Target[] = [
  {
    scenario: plain,
    action: "full",
    quantity: "wallSeconds",
    reference: { kind: "best-peer", action: "full" },
    atMost: 0.65,
  },
  {
    scenario: plain,
    action: "full",
    quantity: "clientSeconds",
    reference: { kind: "best-peer", action: "full" },
    atMost: 0.6,
  },
  { scenario: plain, action: "full", quantity: "wallSeconds", reference: { kind: "limit" }, atMost: 1.3 },
  {
    scenario: plain,
    action: "incremental",
    quantity: "wallSeconds",
    reference: { kind: "best-peer", action: "incremental" },
    atMost: 0.3,
  },
  {
    scenario: plain,
    action: "incremental-hints",
    quantity: "wallSeconds",
    reference: { kind: "best-peer", action: "incremental" },
    atMost: 0.1,
  },
  {
    scenario: plain,
    action: "incremental-hints",
    quantity: "storedBytes",
    reference: { kind: "changed-blocks" },
    atMost: 2,
  },
  {
    scenario: plain,
    action: "restore",
    quantity: "wallSeconds",
    reference: { kind: "peer", name: "restic", action: "restore" },
    atMost: 0.65,
  },
  { scenario: plain, action: "restore", quantity: "wallSeconds", reference: { kind: "limit" }, atMost: 1.3 },
  { scenario: plain, action: "full", quantity: "peakBytes", reference: memory, atMost: 1 },
  { scenario: plain, action: "incremental", quantity: "peakBytes", reference: memory, atMost: 1 },
  { scenario: plain, action: "incremental-hints", quantity: "peakBytes", reference: memory, atMost: 1 },
  { scenario: plain, action: "restore", quantity: "peakBytes", reference: memory, atMost: 1 },
  { scenario: thin, action: "full", quantity: "peakBytes", reference: memory, atMost: 1 },
  { scenario: thin, action: "restore", quantity: "peakBytes", reference: memory, atMost: 1 },
  { scenario: delayed, action: "full", quantity: "wallSeconds", reference: { kind: "undelayed" }, atMost: 1.1 },
  { scenario: delayed, action: "restore", quantity: "wallSeconds", reference: { kind: "undelayed" }, atMost: 1.1 },
];

export interface Verdict extends Target {
  readonly value: number;
  readonly referenceValue: number;
  /** What the reference is, in words. */
  readonly referenceName: string;
  readonly ratio: number;
  readonly isMet: boolean;
}

/** Verdicts on the targets for which both sides were measured. */
export function judge(summaries: readonly Summary[], limits: Limits | undefined): Verdict[] {
  return targets.flatMap((target) => {
    const own = ownSummary(summaries, target.scenario, target.action);
    const reference = referenceOf(target, summaries, limits);
    if (!own || !reference || reference.value <= 0) return [];
    const ratio = own[target.quantity] / reference.value;
    const isMet = ratio <= target.atMost;
    return [
      {
        ...target,
        value: own[target.quantity],
        referenceValue: reference.value,
        referenceName: reference.name,
        ratio,
        isMet,
      },
    ];
  });
}

function ownSummary(summaries: readonly Summary[], scenario: string, action: Action): Summary | undefined {
  return summaries.find(
    (each) => each.contender === engineName && each.scenario === scenario && each.action === action,
  );
}

function referenceOf(
  { action, quantity, reference }: Target,
  summaries: readonly Summary[],
  limits: Limits | undefined,
): { value: number; name: string } | undefined {
  switch (reference.kind) {
    case "best-peer":
      return bestPeer(summaries, reference.action, quantity);
    case "peer":
      return bestPeer(
        summaries.filter(({ contender }) => contender === reference.name),
        reference.action,
        quantity,
      );
    case "limit": {
      const limit = limits?.limits.find((each) => each.action === action);
      return limit && { value: limit.seconds, name: "derived limit" };
    }
    case "changed-blocks":
      return limits && { value: limits.changedStoredBytes, name: "changed blocks, compressed" };
    case "undelayed": {
      const undelayed = ownSummary(summaries, scenarios.proxy, action);
      return undelayed && { value: undelayed[quantity], name: "without delay" };
    }
    case "bytes":
      return { value: reference.bytes, name: "allowed" };
  }
}

function bestPeer(summaries: readonly Summary[], action: Action, quantity: Quantity) {
  const [best] = summaries
    .filter((each) => each.contender !== engineName && each.scenario === plain && each.action === action)
    .sort((a, b) => a[quantity] - b[quantity]);
  return best && { value: best[quantity], name: best.contender };
}
