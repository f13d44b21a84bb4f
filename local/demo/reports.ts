/** The main job's story, for people on a terminal or as JSON lines for programs. */

import type { MainJobReport, MainJobResult } from "./main-job.ts";
import { formatSize } from "./sizes.ts";

const barWidth = 20;

export interface DemoReport extends MainJobReport {
  cloud(step: { endpoint: string; url: string }): void;
  preparing(step: { bytesDone: number; bytesTotal: number }): void;
  done(result: MainJobResult): void;
  error(message: string): void;
}

/** One JSON object for each step on `out`; progress is not a step. */
export function jsonReport(out: NodeJS.WritableStream): DemoReport {
  const print = (step: string, fields: object) => out.write(`${JSON.stringify({ step, ...fields })}\n`);
  const nothing = () => {};
  return {
    cloud: (fields) => print("cloud", fields),
    preparing: nothing,
    hashing: nothing,
    volume: (fields) => print("volume", fields),
    requested: (fields) => print("requested", fields),
    createdOnPrimary: (fields) => print("createdOnPrimary", fields),
    backingUp: nothing,
    backedUp: (fields) => print("backedUp", fields),
    restoring: nothing,
    restored: (fields) => print("restored", fields),
    done: (result) => print("done", result),
    error: (message) => print("error", { message }),
  };
}

/** Lines for people; on a terminal a bar moves while something takes its time. */
export function textReport(out: NodeJS.WriteStream): DemoReport {
  const live = out.isTTY === true;
  const bar = (label: string, done: number, total: number, tail = "") => {
    if (!live) return;
    const share = total === 0 ? 1 : Math.min(1, done / total);
    const filled = Math.round(share * barWidth);
    const picture = "█".repeat(filled) + "░".repeat(barWidth - filled);
    const percent = `${Math.floor(share * 100)} %`.padStart(5);
    out.write(
      `\r\x1b[K  ● ${label.padEnd(12)} ${picture} ${percent}   ${formatSize(done)} of ${formatSize(total)}${tail}`,
    );
  };
  const line = (text: string) => out.write(`${live ? "\r\x1b[K" : ""}${text}\n`);
  const seconds = (milliseconds: number) => `${(milliseconds / 1000).toFixed(1)} s`;
  let bytes = 0;
  let allocated = 0;
  return {
    cloud: () => line(""),
    preparing: ({ bytesDone, bytesTotal }) => bar("Preparing", bytesDone, bytesTotal),
    hashing: (done, total) => bar("Hashing", done, total),
    volume(step) {
      bytes = step.bytes;
      allocated = step.allocatedBytes;
      const content = step.sha256 === undefined ? "written to all the time" : `sha256 ${short(step.sha256)}`;
      line(`A volume to work on: ${step.name} · ${formatSize(bytes)}, ${formatSize(allocated)} allocated · ${content}`);
    },
    requested: ({ volumeId, milliseconds }) =>
      line(`  POST /v1/volumes/${volumeId}/snapshots {"asyncBackup":true}   202 in ${milliseconds} ms`),
    createdOnPrimary: ({ milliseconds }) =>
      line(`  ● CreatedOnPrimary ${seconds(milliseconds).padStart(8)}   the volume is free again, the job is done`),
    backingUp({ bytesDone, bytesTotal, attempt, maxAttempts, milliseconds }) {
      const rate = milliseconds > 0 ? formatSize(Math.round((bytesDone / milliseconds) * 1000)) : "–";
      bar("BackingUp", bytesDone, bytesTotal, `   ${rate}/s   attempt ${Math.max(1, attempt)} of ${maxAttempts}`);
    },
    backedUp({ milliseconds, storedBytes }) {
      const ratio = storedBytes > 0 ? ` (${(allocated / storedBytes).toFixed(1)}x)` : "";
      line(`  ● BackedUp ${seconds(milliseconds).padStart(16)}   ${formatSize(storedBytes)} stored${ratio}, verified`);
    },
    restoring: ({ bytesDone, bytesTotal }) => bar("Restoring", bytesDone, bytesTotal),
    restored: ({ name, milliseconds }) => line(`  ● Restored ${seconds(milliseconds).padStart(16)}   to ${name}`),
    done: ({ equal, sha256Restored, sha256Source }) =>
      line(
        `  ● ${equal ? "Equal" : "DIFFERENT"}, byte for byte: sha256 ${short(sha256Restored)}${equal ? "" : ` instead of ${short(sha256Source)}`}`,
      ),
    error: (message) => line(`  ✘ ${message}`),
  };
}

function short(digest: string): string {
  return `${digest.slice(0, 8)}…${digest.slice(-4)}`;
}
