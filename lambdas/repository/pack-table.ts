/** Names of packs as a short list: the writers' jobs, then each writer with runs of sequence numbers. Pages and branches begin with one. */
import type { ByteReader, ByteWriter } from "./binary.ts";
import { formatPackName, isNameNumber, isPlainName, parsePackName } from "./layout.ts";

/** One writer's packs as runs of sequence numbers. */
interface PackGroup {
  readonly job: number;
  readonly attempt: number;
  readonly shard: number;
  readonly token: string;
  readonly runs: { first: number; count: number }[];
}

/** job u32, attempt u32, shard u32, token 8, runs u32 and one run of two u32 */
const minGroupBytes = 4 + 4 + 4 + 8 + 4 + 8;

/** Writes names of jobs in ascending order; answers the number of each. */
export function encodeJobs(writer: ByteWriter, jobIds: Iterable<string>): ReadonlyMap<string, number> {
  const jobs = [...new Set(jobIds)].sort();
  writer.u32(jobs.length);
  for (const job of jobs) writer.text(job);
  return new Map(jobs.map((job, number) => [job, number]));
}

export function decodeJobs(reader: ByteReader): string[] {
  return Array.from({ length: reader.count(2) }, () => {
    const name = reader.text();
    if (!isPlainName(name)) throw reader.damaged("a name in it is not one");
    return name;
  });
}

/** Writes the packs, whose jobs are all in `jobs`; answers the number of each pack. The bytes do not depend on the order of `packs`. */
export function encodePacks(
  writer: ByteWriter,
  packs: ReadonlySet<string>,
  jobs: ReadonlyMap<string, number>,
): ReadonlyMap<string, number> {
  const groups = groupPacks(packs, jobs);
  writer.u32(groups.length);
  for (const { group } of groups) {
    writer.u32(group.job).u32(group.attempt).u32(group.shard).hex(group.token).u32(group.runs.length);
    for (const run of group.runs) writer.u32(run.first).u32(run.count);
  }
  return new Map(groups.flatMap(({ names }) => names).map((name, number) => [name, number]));
}

/** The packs in the order of their numbers; at most `limit` of them, and none with a number that no name can have. */
export function decodePacks(reader: ByteReader, jobs: readonly string[], limit: number): string[] {
  const packs: string[] = [];
  for (let groups = reader.count(minGroupBytes); groups > 0; groups--) {
    const jobId = jobs[reader.u32()];
    if (jobId === undefined) throw reader.damaged("its list of packs makes no sense");
    const writer = { jobId, attempt: reader.u32(), shard: reader.u32(), token: reader.hex(8) };
    if (!isNameNumber(writer.attempt) || !isNameNumber(writer.shard))
      throw reader.damaged("a name of a pack in it is not one");
    for (let runs = reader.count(8); runs > 0; runs--) {
      const first = reader.u32();
      const count = reader.u32();
      if (packs.length + count > limit) throw reader.damaged("its list of packs is too long");
      if (!isNameNumber(first + count - 1)) throw reader.damaged("a name of a pack in it is not one");
      for (let at = 0; at < count; at++) packs.push(formatPackName({ ...writer, sequence: first + at }));
    }
  }
  return packs;
}

/** The jobs that wrote these packs. */
export function jobsOfPacks(packs: Iterable<string>): string[] {
  return [...packs].map((pack) => parsePackName(pack)!.jobId);
}

function groupPacks(
  packs: ReadonlySet<string>,
  jobs: ReadonlyMap<string, number>,
): { group: PackGroup; names: string[] }[] {
  const byWriter = Map.groupBy(packs, (pack) => pack.slice(0, pack.lastIndexOf("-")));
  const sorted = [...byWriter].sort(([a], [b]) => (a < b ? -1 : 1));
  return sorted.map(([, ofWriter]) => {
    const parsed = ofWriter.map((pack) => parsePackName(pack)!).sort((a, b) => a.sequence - b.sequence);
    const { jobId, attempt, shard, token } = parsed[0]!;
    const runs = toRuns(parsed.map(({ sequence }) => sequence));
    return { group: { job: jobs.get(jobId)!, attempt, shard, token, runs }, names: parsed.map(formatPackName) };
  });
}

function toRuns(sequences: readonly number[]): PackGroup["runs"] {
  const runs: PackGroup["runs"] = [];
  for (const sequence of sequences) {
    const last = runs.at(-1);
    if (last && last.first + last.count === sequence) last.count += 1;
    else runs.push({ first: sequence, count: 1 });
  }
  return runs;
}
