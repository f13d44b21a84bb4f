/** Measurements as text. */
import type { Measurement } from "./measurement.ts";
import { summaries } from "./summary.ts";

const mebibyte = 1024 * 1024;

export function printTable(measurements: readonly Measurement[]): void {
  const rows = summaries(measurements).map((summary) => [
    summary.contender,
    summary.action,
    summary.wallSeconds.toFixed(2),
    summary.clientSeconds.toFixed(2),
    summary.serverSeconds.toFixed(2),
    summary.foreignSeconds.toFixed(2),
    (summary.peakBytes / mebibyte).toFixed(0),
    (summary.storedBytes / mebibyte).toFixed(1),
    String(summary.storedObjects),
    requestText(summary.requests),
    phaseText(summary.phases),
  ]);
  const head = [
    "contender",
    "action",
    "wall s",
    "client CPU s",
    "server CPU s",
    "foreign CPU s",
    "peak MiB",
    "stored MiB",
    "objects",
    "requests",
    "phases s",
  ];
  console.log(table([head, ...rows]));
}

function requestText(requests: Readonly<Record<string, number>>): string {
  const sorted = Object.entries(requests).sort(([, a], [, b]) => b - a);
  return sorted.map(([name, count]) => `${count} ${name}`).join(", ");
}

function phaseText(phases: Readonly<Record<string, number>>): string {
  return Object.entries(phases)
    .map(([name, seconds]) => `${name} ${seconds.toFixed(2)}`)
    .join(", ");
}

/** Columns of equal width; the first two are names, the rest numbers, texts at the end. */
export function table(rows: readonly (readonly string[])[]): string {
  const columns = rows[0]?.length ?? 0;
  const widths = Array.from({ length: columns }, (_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  const isNumber = widths.map((_, column) => rows.slice(1).every((row) => /^[-\d.]*$/.test(row[column] ?? "")));
  const line = (row: readonly string[]) =>
    row
      .map((cell, column) => (isNumber[column] ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)))
      .join("  ");
  return rows.map((row) => line(row).trimEnd()).join("\n");
}
