/** The report of a run as text. */
import type { Action } from "./contender.ts";
import { engineName } from "./engine/engine.ts";
import type { Limits } from "./limits/limits.ts";
import { stageNames } from "./limits/stages.ts";
import type { Machine } from "./machine.ts";
import type { Measurement } from "./measurement.ts";
import type { SkippedPeer } from "./peers/peers.ts";
import type { Summary } from "./summary.ts";
import type { Verdict } from "./targets.ts";

export interface Report {
  readonly machine: Machine;
  readonly volume: { readonly sizeBytes: number; readonly seed: number; readonly allocatedBytes: number };
  readonly skipped: readonly SkippedPeer[];
  readonly limits?: Limits;
  readonly summaries: readonly Summary[];
  readonly verdicts: readonly Verdict[];
  readonly measurements: readonly Measurement[];
}

const mebibyte = 1024 * 1024;
const inMebibytes = (bytes: number) => (bytes / mebibyte).toFixed(1);
const inSeconds = (seconds: number) => seconds.toFixed(2);

export function reportText(report: Report): string {
  const parts = [headline(report), measured(report)];
  if (report.limits) parts.push(limitText(report.limits, report.summaries));
  if (report.verdicts.length > 0) parts.push(verdictText(report.verdicts));
  for (const { name, reason } of report.skipped) parts.push(`${name} was skipped: ${reason}`);
  return parts.join("\n\n");
}

function headline({ machine, volume }: Report): string {
  const { cores, processor, node, kernel, loadAverage } = machine;
  return [
    `${cores} cores of ${processor}, Linux ${kernel}, Node ${node}, load ${loadAverage.toFixed(1)} at the start, ${machine.at}`,
    `Volume of ${inMebibytes(volume.sizeBytes)} MiB, ${inMebibytes(volume.allocatedBytes)} MiB allocated, seed ${volume.seed}. Medians; seconds and MiB.`,
  ].join("\n");
}

function measured({ summaries }: Report): string {
  const head = ["scenario", "contender", "action", "rounds", "wall", "client CPU", "server CPU", "foreign CPU"];
  const rows = summaries.map((each) => [
    each.scenario,
    each.contender,
    each.action,
    String(each.rounds),
    inSeconds(each.wallSeconds),
    inSeconds(each.clientSeconds),
    inSeconds(each.serverSeconds),
    inSeconds(each.foreignSeconds),
    (each.peakBytes / mebibyte).toFixed(0),
    inMebibytes(each.storedBytes),
    String(each.storedObjects),
    entries(each.requests, String),
  ]);
  const phases = summaries
    .filter((each) => Object.keys(each.phases).length > 0)
    .map((each) => `${each.scenario}, ${each.contender} ${each.action}: ${entries(each.phases, inSeconds)}`);
  const grid = table([[...head, "peak", "stored", "objects", "requests"], ...rows]);
  return [grid, ...(phases.length > 0 ? ["", "Phases:", ...phases] : [])].join("\n");
}

/** Largest first. */
function entries(values: Readonly<Record<string, number>>, format: (value: number) => string): string {
  const sorted = Object.entries(values).sort(([, a], [, b]) => b - a);
  return sorted.map(([name, value]) => `${name} ${format(value)}`).join(", ");
}

function limitText(
  { stages, limits, content, chunkBytes, changedStoredBytes }: Limits,
  summaries: readonly Summary[],
): string {
  const costs = stageNames.map((stage) => {
    const { client, server, wall } = stages.costs[stage];
    const perGibibyte = [client, server, wall].map((cost) => (cost * 1024 * mebibyte).toFixed(2));
    return [stage, ...perGibibyte, (1 / wall / 1e6).toFixed(0)];
  });
  const own = (action: Action) =>
    summaries.find((each) => each.contender === engineName && each.scenario === "plain" && each.action === action);
  const rows = limits.map(({ action, processorSeconds, serialSeconds, seconds }) => {
    const wall = own(action)?.wallSeconds;
    const ratio = wall === undefined ? "" : (wall / seconds).toFixed(2);
    return [action, inSeconds(processorSeconds), inSeconds(serialSeconds), inSeconds(seconds), ratio];
  });
  return [
    `Chunks of ${chunkBytes / 1024} KiB: ${inMebibytes(content.allocatedBytes)} MiB allocated, ${inMebibytes(content.dataBytes)} not zeros, ${inMebibytes(content.uniqueBytes)} different, compressed to ${(stages.compressedShare * 100).toFixed(0)} %. Changed blocks compressed: ${inMebibytes(changedStoredBytes)} MiB.`,
    table([["stage", "client CPU s/GiB", "server CPU s/GiB", "wall s/GiB", "MB/s"], ...costs]),
    "",
    table([["limit of", "CPU", "serial", "limit", "snapferry / limit"], ...rows]),
  ].join("\n");
}

const quantityNames = { wallSeconds: "wall", clientSeconds: "client CPU", storedBytes: "stored", peakBytes: "peak" };

function verdictText(verdicts: readonly Verdict[]): string {
  const rows = verdicts.map((verdict) => {
    const isBytes = verdict.quantity === "storedBytes" || verdict.quantity === "peakBytes";
    const format = isBytes ? inMebibytes : inSeconds;
    return [
      verdict.isMet ? "pass" : "FAIL",
      `${verdict.scenario}, ${verdict.action}`,
      quantityNames[verdict.quantity],
      format(verdict.value),
      `${format(verdict.referenceValue)} ${verdict.referenceName}`,
      verdict.ratio.toFixed(2),
      `at most ${verdict.atMost}`,
    ];
  });
  return table([["", "target", "of", "snapferry", "against", "ratio", ""], ...rows]);
}

/** Columns of equal width; numbers to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const columns = Array.from({ length: rows[0]?.length ?? 0 }, (_, column) => rows.map((row) => row[column] ?? ""));
  const shapes = columns.map(([, ...cells]) => cells.every((cell) => /^[\d.]*$/.test(cell)));
  const widths = columns.map((cells) => Math.max(...cells.map((cell) => cell.length)));
  const line = (row: readonly string[]) =>
    row
      .map((cell, at) => (shapes[at] ? cell.padStart(widths[at]!) : cell.padEnd(widths[at]!)))
      .join("  ")
      .trimEnd();
  return rows.map(line).join("\n");
}
