/** Follows a job to its end: a progress bar on a terminal, a line for each change elsewhere. */
import { setTimeout as sleep } from "node:timers/promises";
import { SingleBar } from "cli-progress";
import type { Client, Job } from "./api-client.ts";
import { CliError, exitCodes } from "./exit-codes.ts";
import { bytes, percentage, printable } from "./format.ts";
import type { Terminal } from "./terminal.ts";

const pollMilliseconds = 500;
/** Between two lines about the same phase, where lines are printed. */
const lineMilliseconds = 10_000;

const ended: ReadonlySet<Job["state"]> = new Set(["Succeeded", "Failed", "Cancelled"]);

/**
 * The job as it ended, or, after an asynchronous creation that went well, the backup that it has started. Ctrl-C ends the watching,
 * not the job.
 */
export async function watchJob(client: Client, terminal: Terminal, jobId: string): Promise<Job> {
  const job = await follow(client, terminal, jobId);
  if (job.state !== "Succeeded" || !job.asyncBackup || job.backupJobId === undefined) return job;
  terminal.err(`${job.snapshotId} is on primary storage: the volume is free. Backing up as ${job.backupJobId}.\n`);
  return watchJob(client, terminal, job.backupJobId);
}

/** Ends the command with a sentence about it if the job ended badly, or has salvaged a part only. */
export function requireSuccess(job: Job): void {
  if (job.state !== "Succeeded") throw new CliError(exitCodes.failed, failureText(job));
  if (job.lost === undefined) return;
  const lines = ["What is lost is zeros in the volume:", ...job.lost.map((sentence) => `  ${printable(sentence)}`)];
  throw new CliError(exitCodes.salvaged, lines.join("\n"));
}

async function follow(client: Client, terminal: Terminal, jobId: string): Promise<Job> {
  const display = terminal.interactive ? barDisplay() : lineDisplay(terminal);
  const interruption = Promise.withResolvers<"interrupted">();
  const stopListening = terminal.onInterrupt(() => interruption.resolve("interrupted"));
  try {
    for (;;) {
      const job = await Promise.race([client.jobs.get(jobId), interruption.promise]);
      if (job === "interrupted") return leave(display, jobId);
      display.show(job);
      if (ended.has(job.state)) return job;
      const next = await Promise.race([sleep(pollMilliseconds), interruption.promise]);
      if (next === "interrupted") return leave(display, jobId);
    }
  } finally {
    display.stop();
    stopListening();
  }
}

function leave(display: Display, jobId: string): never {
  display.stop();
  throw new CliError(
    exitCodes.interrupted,
    `${jobId} goes on. Watch it again with snapferry jobs watch ${jobId}, or stop it with snapferry jobs cancel ${jobId}.`,
  );
}

interface Display {
  show(job: Job): void;
  stop(): void;
}

function barDisplay(): Display {
  const bar = new SingleBar({
    format: "{label}  {bar} {share}  {amount}  {attempt}",
    barsize: 20,
    barCompleteChar: "█",
    barIncompleteChar: "░",
    hideCursor: true,
    clearOnComplete: false,
    linewrap: false,
    emptyOnZero: true,
    gracefulExit: false,
    stream: process.stderr,
  });
  let running = false;
  return {
    show: (job) => {
      const total = Math.max(1, job.progress?.bytesTotal ?? 1);
      const done = job.state === "Succeeded" ? total : Math.min(total, job.progress?.bytesDone ?? 0);
      const words = {
        label: label(job).padEnd(24),
        share: percentage(job.progress).padStart(5),
        amount: amount(job),
        attempt: attempt(job),
      };
      if (!running) bar.start(total, done, words);
      running = true;
      bar.setTotal(total);
      bar.update(done, words);
    },
    stop: () => {
      if (running) bar.stop();
      running = false;
    },
  };
}

function lineDisplay(terminal: Terminal): Display {
  let last = "";
  let printedAt = 0;
  return {
    show: (job) => {
      const now = Date.now();
      const phase = `${job.state} ${job.phase} ${job.attempt}`;
      if (phase === last && now - printedAt < lineMilliseconds) return;
      last = phase;
      printedAt = now;
      terminal.err(
        `${[job.id, label(job), percentage(job.progress), amount(job), attempt(job)].filter((text) => text !== "").join("  ")}\n`,
      );
    },
    stop: () => {},
  };
}

function label(job: Job): string {
  if (ended.has(job.state)) return job.state;
  if (job.queue) return `Queued (position ${job.queue.position})`;
  return job.phase;
}

function amount({ progress }: Job): string {
  return progress ? `${bytes(progress.bytesDone)} of ${bytes(progress.bytesTotal)}` : "";
}

function attempt(job: Job): string {
  return job.attempt > 0 ? `attempt ${job.attempt} of ${job.maxAttempts}` : "";
}

function failureText(job: Job): string {
  const reason = job.error ? `: ${job.error.name}: ${printable(job.error.message)}` : "";
  const attempts =
    job.attempts.length > 0
      ? ` after ${job.attempts.length} failed ${job.attempts.length === 1 ? "attempt" : "attempts"}`
      : "";
  const isDamage = job.kind === "restore-volume" && job.error?.name === "RepositoryDamaged" && !job.salvage;
  const wayOut = isDamage ? " To a new volume, --salvage restores all the rest, if there is a root." : "";
  return `${job.id} ended as ${job.state}${attempts}${reason}${wayOut}`;
}
