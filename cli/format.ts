/** Numbers and times for people. */

const units: readonly string[] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** `512 B`, `6.2 GiB`, `40 GiB`. */
export function bytes(count: number | undefined): string {
  if (count === undefined) return "–";
  let value = count;
  let unit = 0;
  while (value >= 1023.5 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit > 0 && value < 10 ? 1 : 0;
  return `${Number(value.toFixed(digits))} ${units[unit]}`;
}

/** Bytes of `1073741824`, `50MiB`, `4 GiB`. Undefined for anything else. */
export function parseBytes(text: string): number | undefined {
  const [, number, unit] = /^(\d{1,12})\s?(|KiB|MiB|GiB)$/.exec(text) ?? [];
  if (number === undefined) return undefined;
  return Number(number) * 1024 ** (unit === "" ? 0 : units.indexOf(unit ?? ""));
}

/** What is said to who wrote what {@link parseBytes} does not take. */
export const bytesWanted = "a number of bytes, or one with KiB, MiB or GiB";

const spans = [
  { seconds: 86_400, unit: "d" },
  { seconds: 3600, unit: "h" },
  { seconds: 60, unit: "min" },
  { seconds: 1, unit: "s" },
] as const;

/** `2 h ago`; the clock of the service may be a little ahead. */
export function ago(time: string | undefined, now: Date = new Date()): string {
  if (time === undefined) return "–";
  const seconds = Math.max(0, Math.round((now.getTime() - Date.parse(time)) / 1000));
  const span = spans.find((candidate) => seconds >= candidate.seconds);
  return span === undefined ? "now" : `${Math.floor(seconds / span.seconds)} ${span.unit} ago`;
}

export function percentage(progress: { bytesDone: number; bytesTotal: number } | undefined): string {
  if (!progress) return "";
  if (progress.bytesTotal === 0) return "100 %";
  return `${Math.floor((100 * progress.bytesDone) / progress.bytesTotal)} %`;
}

/** Columns as wide as their widest cell. Empty columns at the end take no room; nor do trailing blanks. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...lines.map((line) => width(line[column] ?? ""))));
  return lines
    .map((line) =>
      line
        .map((cell, column) => cell + " ".repeat((widths[column] ?? 0) - width(cell)))
        .join("  ")
        .trimEnd(),
    )
    .map((line) => `${line}\n`)
    .join("");
}

function width(text: string): number {
  return [...text].length;
}

/** Control characters of names that others chose must not reach the terminal. */
export function printable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, "�");
}

/** Name and value on one line each; absent values are left out. */
export function details(entries: readonly (readonly [string, string | undefined])[]): string {
  const given = entries.filter(
    (entry): entry is readonly [string, string] => entry[1] !== undefined && entry[1] !== "",
  );
  const widest = Math.max(...given.map(([name]) => name.length));
  return given.map(([name, value]) => `${name.padEnd(widest)}  ${value}\n`).join("");
}
