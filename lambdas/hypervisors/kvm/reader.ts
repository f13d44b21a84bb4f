/** Reads an export over several NBD connections, through SSH. */
import { ExportLost, HypervisorFailed } from "../../domain/errors.ts";
import { NbdRequestInvalid } from "../../protocols/nbd/errors.ts";
import { NbdPool } from "../../protocols/nbd/pool.ts";
import type { VolumeReader } from "../port.ts";
import type { KvmExport } from "./export.ts";
import { allocationContext, depthContext } from "./export-extents.ts";
import type { KvmHost } from "./host.ts";
import { onHost } from "./host-errors.ts";

/** SSH lets 2 MiB of a channel be on their way; links of long delay need several. */
const readConnections = 4;

export class KvmVolumeReader implements VolumeReader {
  readonly #pool: NbdPool;
  readonly #descriptor: KvmExport;

  private constructor(pool: NbdPool, descriptor: KvmExport) {
    this.#pool = pool;
    this.#descriptor = descriptor;
  }

  /** Throws ExportLost, HypervisorUnavailable. */
  static async open(host: KvmHost, descriptor: KvmExport): Promise<KvmVolumeReader> {
    return new KvmVolumeReader(await openPool(host, descriptor, { connections: readConnections }), descriptor);
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    try {
      await onHost(() => this.#pool.read(target, offset));
    } catch (error) {
      if (!(error instanceof HypervisorFailed && error.cause instanceof NbdRequestInvalid)) throw error;
      throw new ExportLost(`The snapshot ${this.#descriptor.installPath} has no ${target.length} bytes at ${offset}.`, {
        cause: error,
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.close();
  }
}

/** Runs `work` with what tells of ranges. */
export async function* withMetadata<T>(
  host: KvmHost,
  descriptor: KvmExport,
  work: (pool: NbdPool) => AsyncIterable<T>,
): AsyncGenerator<T> {
  const pool = await openPool(host, descriptor, { connections: 1, metaContexts: [allocationContext, depthContext] });
  try {
    yield* work(pool);
  } finally {
    await pool.close();
  }
}

async function openPool(
  host: KvmHost,
  descriptor: KvmExport,
  options: { readonly connections: number; readonly metaContexts?: readonly string[] },
): Promise<NbdPool> {
  const pool = await onHost(() => NbdPool.open(() => host.openUnixSocket(descriptor.socket), options));
  if (pool.info.sizeBytes === descriptor.sizeBytes) return pool;
  pool.destroy();
  throw new ExportLost(`The export of ${descriptor.installPath} is not what it was when it was opened.`);
}
