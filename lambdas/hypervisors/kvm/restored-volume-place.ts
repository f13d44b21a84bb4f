/** Where a volume that is restored will lie. */
import { basename, dirname, extname, isAbsolute, join } from "node:path";
import { OperationRefused } from "../../domain/errors.ts";
import { poolState } from "../../protocols/libvirt/flags.ts";
import type { Pool } from "../../protocols/libvirt/procedures.ts";
import type { NewVolume } from "../port.ts";
import { unfitOwnFile } from "./chain.ts";
import type { KvmHost } from "./host.ts";
import { libvirtCode } from "./host-errors.ts";
import type { ImageFormat } from "./image-chain.ts";
import { hiddenPrefix, parseOverlayPath } from "./overlay-path.ts";
import { poolFolder } from "./pool-xml.ts";

/** As libvirt's own tools make it. */
const defaultPool = "default";
const activePoolStates: ReadonlySet<number> = new Set([poolState.running, poolState.degraded]);
/** Other endings, and none, are qcow2: raw files tell nobody which they are. */
const rawEndings: ReadonlySet<string> = new Set([".raw", ".img"]);

export interface RestoredPlace {
  /** Path of the finished volume, and its externalId. */
  readonly final: string;
  readonly format: ImageFormat;
  /** Path of the unfinished one: in the same folder, so that it only needs another name. */
  readonly unfinished: string;
  /** Path of a small file that tells which file got the name. */
  readonly marker: string;
}

/**
 * The volume's name may be an absolute path, too. Throws OperationRefused for a pool that is not there or has no folder, and for a name that
 * no volume can have.
 */
export async function restoredPlace(
  host: KvmHost,
  { name, pool = defaultPool, restoreId }: NewVolume,
): Promise<RestoredPlace> {
  const final = isAbsolute(name) ? name : join(await folderOf(host, pool), basename(name));
  const problem = parseOverlayPath(final) ? `${final} is what a snapshot's file is called.` : unfitOwnFile(final);
  if (problem) throw new OperationRefused(problem);
  const format = rawEndings.has(extname(final)) ? "raw" : "qcow2";
  const unfinished = join(dirname(final), `${hiddenPrefix}${restoreId}.${format}`);
  return { final, format, unfinished, marker: join(await host.ownFolder(), "published", restoreId) };
}

/** No discovery finds what lies in a pool that is not active. Throws OperationRefused. */
export async function requireActivePool(host: KvmHost, { name, pool = defaultPool }: NewVolume): Promise<void> {
  if (isAbsolute(name)) return;
  const { state } = await host.call("poolGetInfo", { pool: await findPool(host, pool) });
  if (!activePoolStates.has(state)) throw new OperationRefused(`The storage pool ${pool} is not active.`);
}

async function folderOf(host: KvmHost, pool: string): Promise<string> {
  const { xml } = await host.call("poolGetXml", { pool: await findPool(host, pool), flags: 0 });
  const folder = poolFolder(xml);
  if (folder === undefined) throw new OperationRefused(`The storage pool ${pool} has no folder for files.`);
  return folder;
}

async function findPool(host: KvmHost, name: string): Promise<Pool> {
  try {
    return (await host.call("poolLookupByName", { name })).pool;
  } catch (error) {
    if (libvirtCode(error) !== "NO_STORAGE_POOL") throw error;
    throw new OperationRefused(`There is no storage pool ${name} on the host.`, { cause: error });
  }
}
