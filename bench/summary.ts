/** Medians over the rounds. */
import type { Measurement } from "./measurement.ts";

export interface Summary extends Measurement {
  readonly rounds: number;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** One summary for each scenario, contender and action: medians of numbers, requests and phases of the round whose wall time is nearest to the median. */
export function summaries(measurements: readonly Measurement[]): Summary[] {
  const groups = Map.groupBy(measurements, ({ scenario, contender, action }) => `${scenario} ${contender} ${action}`);
  return [...groups.values()].map(summarise);
}

function summarise(group: readonly Measurement[]): Summary {
  const middle = (value: (measurement: Measurement) => number) => median(group.map(value));
  const wallSeconds = middle((each) => each.wallSeconds);
  const distance = (each: Measurement) => Math.abs(each.wallSeconds - wallSeconds);
  const typical = group.toSorted((a, b) => distance(a) - distance(b))[0]!;
  return {
    ...typical,
    rounds: group.length,
    wallSeconds,
    clientSeconds: middle((each) => each.clientSeconds),
    serverSeconds: middle((each) => each.serverSeconds),
    foreignSeconds: middle((each) => each.foreignSeconds),
    peakBytes: Math.max(...group.map((each) => each.peakBytes)),
    storedBytes: middle((each) => each.storedBytes),
    storedObjects: middle((each) => each.storedObjects),
  };
}
