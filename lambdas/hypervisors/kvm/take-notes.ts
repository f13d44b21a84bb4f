/**
 * What a snapshot is worth, noted on the host for a repetition that finds the snapshot there. The least that is sure is written before
 * anything is created, what was achieved afterwards.
 */
import { type Consistency, consistencies } from "../../domain/snapshot.ts";
import type { KvmHost } from "./host.ts";

const write = `umask 077; mkdir -p "$1"; cd "$1"; word=$2; shift 2
for id; do printf %s "$word" > "$id.$$"; mv "$id.$$" "$id"; done`;
const writeLeast = `umask 077; mkdir -p "$1"; cd "$1"
shift; for id; do [ -e "$id" ] || printf crash > "$id"; done`;

/** Before anything is created. What another worker has noted already stays. */
export async function noteLeast(host: KvmHost, snapshotIds: readonly string[]): Promise<void> {
  await host.script("write-note", writeLeast, [await folderOf(host), ...snapshotIds]);
}

/** By who has created the snapshots. */
export async function noteAchieved(
  host: KvmHost,
  snapshotIds: readonly string[],
  achieved: Consistency,
): Promise<void> {
  await host.script("write-note", write, [await folderOf(host), achieved, ...snapshotIds]);
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
