/** A volume under construction: an image under a hidden name, written through qemu-nbd, that gets its name when it is complete. */
import {
  HypervisorFailed,
  OperationRefused,
  PrimaryStorageFull,
  VolumeNameTaken,
  VolumeNotFound,
} from "../../domain/errors.ts";
import { NbdRequestFailed } from "../../protocols/nbd/errors.ts";
import { NbdPool } from "../../protocols/nbd/pool.ts";
import type { NewVolume, VolumeWriter } from "../port.ts";
import { closeScript, openScript } from "./export-scripts.ts";
import type { KvmHost } from "./host.ts";
import { onHost } from "./host-errors.ts";
import type { ImageFormat } from "./image-chain.ts";
import { type RestoredPlace, requireActivePool, restoredPlace } from "./restored-volume-place.ts";
import { createScript, discardScript, gone, publishScript, taken } from "./restored-volume-scripts.ts";
import { requirePresence } from "./volume-presence.ts";
import { zeroRuns } from "./zero-runs.ts";

/** As many as readers have: SSH lets 2 MiB of a channel be on their way. */
const connectionsPerWriter = 4;
/** 16 workers with as many connections. */
const mostClients = 64;

export class RestoredVolume {
  readonly #host: KvmHost;
  readonly #volume: NewVolume;

  constructor(host: KvmHost, volume: NewVolume) {
    this.#host = host;
    this.#volume = volume;
  }

  /** Throws VolumeNameTaken, OperationRefused, PrimaryStorageFull. */
  async create(): Promise<void> {
    const place = await this.#place();
    await requireActivePool(this.#host, this.#volume);
    const more = [place.format, `${this.#volume.sizeBytes}`];
    if ((await this.#run("qemu-img create", createScript, place, more)) === taken) throw this.#nameTaken(place);
  }

  /** Several may be open at once, also of several workers. Throws VolumeNotFound. */
  async openWriter(): Promise<VolumeWriter> {
    const { unfinished: path, format } = await this.#place();
    const { restoreId, sizeBytes } = this.#volume;
    return writeImage(this.#host, { restoreId, sizeBytes, path, format });
  }

  /** Returns the externalId. Throws VolumeNameTaken, VolumeNotFound. */
  async publish(): Promise<string> {
    const place = await this.#place();
    await this.#endWriting();
    const answer = await this.#run("publish", publishScript, place);
    if (answer === taken) throw this.#nameTaken(place);
    if (answer === gone) {
      await requirePresence(this.#host, place.final);
      throw notFound(this.#volume.restoreId);
    }
    return place.final;
  }

  async discard(): Promise<void> {
    await this.#endWriting();
    try {
      await this.#run("discard", discardScript, await this.#place());
    } catch (error) {
      // Where no volume can be made, none was: there is no such pool, or the name is none.
      if (!(error instanceof OperationRefused)) throw error;
    }
  }

  #place(): Promise<RestoredPlace> {
    return restoredPlace(this.#host, this.#volume);
  }

  async #endWriting(): Promise<void> {
    await this.#host.script("close-writer", closeScript, [await serversFolder(this.#host), this.#volume.restoreId]);
  }

  async #run(name: string, script: string, place: RestoredPlace, more: readonly string[] = []): Promise<string> {
    const { unfinished, final, marker } = place;
    return (await this.#host.script(name, script, [unfinished, final, marker, ...more])).trim();
  }

  #nameTaken({ final }: RestoredPlace): VolumeNameTaken {
    return new VolumeNameTaken(`There is a file ${final} already.`);
  }
}

/** An image that a restore writes. */
export interface WrittenImage {
  readonly restoreId: string;
  readonly sizeBytes: number;
  readonly path: string;
  readonly format: ImageFormat;
}

/** Opens it through the qemu-nbd of its restore, which is started if need be. Throws VolumeNotFound. */
export async function writeImage(host: KvmHost, image: WrittenImage): Promise<VolumeWriter> {
  const { restoreId, sizeBytes, path, format } = image;
  const folder = await serversFolder(host);
  const record = JSON.stringify({ restoreId, path });
  // Not with --detect-zeroes: whole zeros are known here, and do not have to travel.
  const options = ["--persistent", `--shared=${mostClients}`, "--discard=unmap", `--format=${format}`];
  try {
    await host.script("qemu-nbd", openScript, [folder, restoreId, record, ...options, path]);
  } catch (error) {
    if (!(error instanceof HypervisorFailed && error.message.includes("No such file or directory"))) throw error;
    await requirePresence(host, path);
    throw notFound(restoreId, error);
  }
  // As the script names it.
  const socket = `${folder}/${restoreId}/sock`;
  const dial = () => host.openUnixSocket(socket);
  const pool = await onHost(() => NbdPool.open(dial, { connections: connectionsPerWriter }));
  return new RestoredVolumeWriter(pool, path, sizeBytes);
}

async function serversFolder(host: KvmHost): Promise<string> {
  return `${await host.ownFolder()}/restores`;
}

function notFound(restoreId: string, cause?: unknown): VolumeNotFound {
  return new VolumeNotFound(`There is no unfinished volume of the restore ${restoreId}.`, { cause });
}

class RestoredVolumeWriter implements VolumeWriter {
  readonly #pool: NbdPool;
  readonly #path: string;
  readonly #sizeBytes: number;

  constructor(pool: NbdPool, path: string, sizeBytes: number) {
    this.#pool = pool;
    this.#path = path;
    this.#sizeBytes = sizeBytes;
  }

  /** Zeros are written as such: over bytes of an earlier attempt they have to be. */
  async write(data: Uint8Array, offset: number): Promise<void> {
    const end = offset + data.length;
    if (offset < 0 || end > this.#sizeBytes) {
      throw new RangeError(`Bytes ${offset}-${end - 1} lie outside of a volume of ${this.#sizeBytes} bytes.`);
    }
    const parts = [...zeroRuns(data, offset)].map((run) => {
      const length = run.end - run.start;
      if (run.isZero) return this.#pool.writeZeroes({ offset: offset + run.start, length });
      return this.#pool.write(data.subarray(run.start, run.end), offset + run.start);
    });
    // All have ended when the call ends: `data` is the caller's again.
    for (const result of await Promise.allSettled(parts)) {
      if (result.status === "rejected") await this.#fail(result.reason);
    }
  }

  async flush(): Promise<void> {
    await this.#pool.flush().catch((error: unknown) => this.#fail(error));
  }

  async #fail(error: unknown): Promise<never> {
    if (error instanceof NbdRequestFailed && error.code === "ENOSPC") {
      throw new PrimaryStorageFull(`There is no room left for ${this.#path}.`, { cause: error });
    }
    return onHost(() => Promise.reject(error));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.close();
  }
}
