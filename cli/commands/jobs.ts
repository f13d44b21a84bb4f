import type { Command } from "commander";
import type { Job } from "../api-client.ts";
import {
  type Context,
  command,
  group,
  hintAtMore,
  type JsonOption,
  type ListOptions,
  listCommand,
  pageOptions,
  print,
} from "../context.ts";
import { ago, bytes, details, percentage, printable, table } from "../format.ts";
import { requireSuccess, watchJob } from "../watch.ts";

const example = "job_01JD7QXN8ZK4V1TQ3C5M9R2WEY";

export function jobsCommand(context: Context): Command {
  return group("jobs", "What is being done, or was", ["jobs ls", `jobs watch ${example}`, `jobs cancel ${example}`])
    .addCommand(ls(context))
    .addCommand(get(context))
    .addCommand(watch(context))
    .addCommand(cancel(context));
}

interface Filter extends ListOptions {
  readonly state?: string;
  readonly kind?: string;
  readonly snapshot?: string;
}

function ls(context: Context): Command {
  return listCommand("List jobs, newest first", [
    "jobs ls",
    "jobs ls --state Running",
    "jobs ls --kind backup-snapshot --json",
  ])
    .option("--state <state>", "only those in this state: Queued, Running, Succeeded, Failed, Cancelled")
    .option("--kind <kind>", "only of this kind: create-snapshot, backup-snapshot, restore-volume, delete-snapshot")
    .option("--snapshot <id>", "only of this snapshot")
    .action(async (options: Filter) => {
      const client = await context.client();
      const page = await client.jobs.list({
        ...pageOptions(options),
        ...(options.state === undefined ? {} : { state: options.state }),
        ...(options.kind === undefined ? {} : { kind: options.kind }),
        ...(options.snapshot === undefined ? {} : { snapshotId: options.snapshot }),
      });
      print(context, options, page, () => jobTable(page.items));
      hintAtMore(context, options, page);
    });
}

function jobTable(jobs: readonly Job[]): string {
  return table(
    ["ID", "KIND", "STATE", "PHASE", "DONE", "SNAPSHOT", "CREATED", ""],
    jobs.map((job) => [
      job.id,
      job.kind,
      job.state,
      job.queue === undefined ? job.phase : `Queued, position ${job.queue.position}`,
      percentage(job.progress) || "–",
      job.snapshotId,
      ago(job.createdAt),
      job.error ? job.error.name : "",
    ]),
  );
}

function get(context: Context): Command {
  return command("get", "Look at a job", [`jobs get ${example}`])
    .argument("<job>", "id")
    .action(async (id: string, options: JsonOption) => {
      const job = await (await context.client()).jobs.get(id);
      print(context, options, job, () => jobDetails(job));
    });
}

function jobDetails(job: Job): string {
  const { progress, queue } = job;
  return details([
    ["Id", job.id],
    ["Kind", job.kind],
    ["State", job.state],
    ["Phase", job.phase],
    ["Queue", queue && `position ${queue.position}, waits for ${queue.waitsFor}`],
    ["Progress", progress && `${percentage(progress)}  ${bytes(progress.bytesDone)} of ${bytes(progress.bytesTotal)}`],
    ["Attempt", job.attempt === 0 ? undefined : `${job.attempt} of ${job.maxAttempts}`],
    ...job.attempts.map(({ attempt, endedAt, error }): [string, string] => [
      `Attempt ${attempt} failed`,
      printable(`${endedAt}  ${error.name}: ${error.message}`),
    ]),
    ["Error", job.error && printable(`${job.error.name}: ${job.error.message}`)],
    ["Reads", job.backup && readingText(job.backup)],
    ["Verified by", job.verify && (job.verify === "full" ? "reading every byte back" : "checksums of the store")],
    ["Snapshot", job.snapshotId],
    ["Volume", job.target === undefined ? job.volumeId : `${printable(job.target.name)} (${job.target.volumeId})`],
    ["VM", job.target?.vmId ?? (job.target?.newVm && printable(job.target.newVm.name))],
    ["Backup", job.backupJobId],
    ["Waited for by", job.parentJobId],
    ["Created", job.createdAt],
    ["Started", job.startedAt],
    ["Finished", job.finishedAt],
  ]);
}

/** `incremental on snap_…, changed ranges only`; the reason, where there is one, in brackets. */
function readingText({ kind, base, reading, reason }: NonNullable<Job["backup"]>): string {
  const what = reading === "changed" ? "changed ranges only" : "everything";
  const why = reason === undefined ? "" : ` (${printable(reason)})`;
  return `${kind}${base === undefined ? "" : ` on ${base}`}, ${what}${why}`;
}

function watch(context: Context): Command {
  return command("watch", "Follow a job to its end", [`jobs watch ${example}`])
    .argument("<job>", "id")
    .action(async (id: string, options: JsonOption) => {
      const job = await watchJob(await context.client(), context.terminal, id);
      print(context, options, job, () => `${job.id} is ${job.state}.\n`);
      requireSuccess(job);
    });
}

function cancel(context: Context): Command {
  return command("cancel", "Cancel a job", [`jobs cancel ${example}`])
    .argument("<job>", "id")
    .action(async (id: string, options: JsonOption) => {
      const answer = await (await context.client()).jobs.cancel(id);
      print(context, options, answer, () => `${answer.job.id} is ${answer.job.state}.\n`);
    });
}
