/**
 * Exports of frozen bytes: one qemu-nbd for each snapshot, on a unix socket in a folder of Snapferry's own. It goes on when the connection
 * that started it ends, and when the VM stops or starts.
 */
import { setTimeout as pause } from "node:timers/promises";
import * as z from "zod";
import { ExportLost, HypervisorFailed, HypervisorUnavailable, PathOutsideDirectory } from "../../domain/errors.ts";
import type { ExportDescriptor } from "../port.ts";
import { plannedBy } from "./chain.ts";
import { closeScript, listScript, openScript } from "./export-scripts.ts";
import type { KvmHost } from "./host.ts";
import type { ImageLayer } from "./image-chain.ts";
import { requirePresence } from "./volume-presence.ts";

export interface KvmExport extends ExportDescriptor {
  /** Path on the host. */
  readonly socket: string;
}

/** Written beside the socket, so that it is known of what the export is. */
const recordSchema = z.object({ snapshotId: z.string(), installPath: z.string() });
export type ExportRecord = z.infer<typeof recordSchema>;

/** Twice what 16 workers take that have 4 connections each: those of workers that died go a little later. */
const mostClients = 128;
/** A merge that is ending, or a VM that is starting, holds QEMU's lock for a moment. */
const lockAttempts = 10;
const lockPauseMs = 1_000;
/** As QEMU words it. */
const lockRefused = /Failed to get (?:shared )?"[a-z ]+" lock|Is another process using the image/;

/**
 * Starts qemu-nbd on the frozen bytes, or finds the one that runs.
 *
 * @throws ExportLost when the snapshot is gone
 * @throws HypervisorUnavailable when a program writes to its files, or they may only be away
 */
export async function openExport(host: KvmHost, snapshot: ExportRecord): Promise<KvmExport> {
  const { snapshotId, installPath } = snapshot;
  const frozen = (await frozenChain(host, snapshot))[0]!;
  const folder = await exportsFolder(host);
  const record: ExportRecord = { snapshotId, installPath };
  const options = ["--read-only", "--persistent", `--shared=${mostClients}`, "--allocation-depth"];
  const argv = [folder, snapshotId, JSON.stringify(record), ...options, `--format=${frozen.format}`, frozen.path];
  for (let attempt = 1; ; attempt++) {
    try {
      await host.script("qemu-nbd", openScript, argv);
      break;
    } catch (error) {
      if (!(error instanceof HypervisorFailed && lockRefused.test(error.message))) throw error;
      if (attempt === lockAttempts) throw new HypervisorUnavailable(`${frozen.path} is in use: ${error.message}`);
      await pause(lockPauseMs);
    }
  }
  return { kind: "kvm", snapshotId, installPath, sizeBytes: frozen.sizeBytes, socket: socketOf(folder, snapshotId) };
}

/**
 * The files that hold the frozen bytes, the topmost first.
 *
 * @throws ExportLost, PathOutsideDirectory
 * @throws HypervisorUnavailable when they may only be away
 */
export async function frozenChain(host: KvmHost, { snapshotId, installPath }: ExportRecord): Promise<ImageLayer[]> {
  const planned = plannedBy(installPath);
  if (planned.snapshotId !== snapshotId) {
    throw new PathOutsideDirectory(`${installPath} is not the snapshot ${snapshotId}.`);
  }
  const chain = await host.imageChain(installPath).catch((error: unknown) => {
    if (!(error instanceof HypervisorFailed && error.message.includes("No such file or directory"))) throw error;
    throw new HypervisorUnavailable(`What ${installPath} stands on is not there now: ${error.message}`, {
      cause: error,
    });
  });
  if (!chain) await requirePresence(host, planned.volume);
  if (!chain || chain.length < 2) throw new ExportLost(`The snapshot ${installPath} is gone.`);
  return chain.slice(1);
}

/** Ends the qemu-nbd of a snapshot and removes its files. Gone is success. */
export async function closeExport(host: KvmHost, { snapshotId }: { readonly snapshotId: string }): Promise<void> {
  await host.script("close-export", closeScript, [await exportsFolder(host), snapshotId]);
}

/** Those that are there, whether their qemu-nbd runs or not. */
export async function listExports(host: KvmHost): Promise<(ExportRecord & { readonly running: boolean })[]> {
  const listed = await host.script("list-exports", listScript, [await exportsFolder(host)]);
  return listed.split("\n").flatMap((line) => {
    const [state, json] = [line.slice(0, line.indexOf(" ")), line.slice(line.indexOf(" ") + 1)];
    const record = parseRecord(json);
    return record ? [{ ...record, running: state === "running" }] : [];
  });
}

/** What a died worker wrote in half is none. */
function parseRecord(json: string): ExportRecord | undefined {
  try {
    return recordSchema.safeParse(JSON.parse(json)).data;
  } catch {
    return undefined;
  }
}

/** Closes those that nobody needs; returns the ids of their snapshots. */
export async function closeStaleExports(
  host: KvmHost,
  isNeeded: (snapshotId: string) => Promise<boolean>,
): Promise<string[]> {
  const closed: string[] = [];
  for (const { snapshotId } of await listExports(host)) {
    if (await isNeeded(snapshotId)) continue;
    await closeExport(host, { snapshotId });
    closed.push(snapshotId);
  }
  return closed;
}

async function exportsFolder(host: KvmHost): Promise<string> {
  return `${await host.ownFolder()}/exports`;
}

/** As the scripts name it. */
function socketOf(folder: string, snapshotId: string): string {
  return `${folder}/${snapshotId}/sock`;
}
