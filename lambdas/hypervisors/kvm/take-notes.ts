/**
 * What a snapshot is worth, noted on the host for a repetition that finds the snapshot there. The least that is sure is written before
 * anything is created, what was achieved afterwards.
 */
import { type Consistency, consistencies } from "../../domain/snapshot.ts";
import type { KvmHost } from "./host.ts";

const write =
  'umask 077; mkdir -p "$1"; cd "$1"; word=$2; shift 2; for id; do printf %s "$word" > "$id.new"; mv "$id.new" "$id"; done';

export async function writeConsistency(
  host: KvmHost,
  snapshotIds: readonly string[],
  consistency: Consistency,
): Promise<void> {
  await host.script("write-note", write, [await folderOf(host), consistency, ...snapshotIds]);
}

/** As a power cut would leave it, where there is no note. */
export async function readConsistency(host: KvmHost, snapshotId: string): Promise<Consistency> {
  const { stdout } = await host.exec(["cat", `${await folderOf(host)}/${snapshotId}`]);
  return consistencies.find((one) => one === stdout) ?? "crash";
}

export async function forgetConsistency(host: KvmHost, snapshotId: string): Promise<void> {
  await host.run(["rm", "-f", `${await folderOf(host)}/${snapshotId}`]);
}

async function folderOf(host: KvmHost): Promise<string> {
  return `${await host.ownFolder()}/taken`;
}
