/** The codec: chunks are named, compressed, unpacked and checked by a few threads beside the one that moves the bytes. */
import { availableParallelism } from "node:os";
import { setFlagsFromString } from "node:v8";
import { Worker } from "node:worker_threads";
import type { CodecRequest, DecodeRequest, EncodeRequest, NamedChunk } from "./codec-worker.ts";

// A collection of young objects that is shared among threads waits for each of them, and they have to wait for the codec's threads. One that
// the main thread does alone is over sooner: a seventh of the time of a small backup.
setFlagsFromString("--no-parallel-scavenge");

/** More threads than this find no more to do than one network connection brings. */
const maxThreads = 6;

/** Beside this file, under the name that it has in a bundle too. */
const workerFile = import.meta.url.endsWith(".ts") ? "./codec-worker.ts" : "./codec-worker.mjs";

interface Pending {
  resolve(answer: unknown): void;
  reject(error: unknown): void;
}

class CodecThread {
  readonly #worker = new Worker(new URL(workerFile, import.meta.url));
  readonly #pending = new Map<number, Pending>();
  #next = 0;
  hasFailed = false;

  constructor() {
    this.#worker.on("message", ({ id, answer, error }: { id: number; answer?: unknown; error?: unknown }) => {
      const pending = this.#settle(id);
      if (error === undefined) pending?.resolve(answer);
      else pending?.reject(error);
    });
    this.#worker.on("error", (error) => this.#fail(error));
    this.#worker.on("exit", (code) => this.#fail(new Error(`A thread of the codec has ended (${code}).`)));
    // Behind the listeners: the first one for messages makes Node wait for the thread.
    this.#worker.unref();
  }

  get load(): number {
    return this.#pending.size;
  }

  /** While it has work, it keeps the process alive; while it has none, it does not. */
  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    if (this.#pending.size === 0) this.#worker.unref();
    return pending;
  }

  #fail(error: unknown): void {
    this.hasFailed = true;
    for (const id of [...this.#pending.keys()]) this.#settle(id)?.reject(error);
  }

  run<Answer>(request: CodecRequest): Promise<Answer> {
    const id = this.#next++;
    if (this.#pending.size === 0) this.#worker.ref();
    return new Promise<Answer>((resolve, reject) => {
      this.#pending.set(id, { resolve: (answer) => resolve(answer as Answer), reject });
      try {
        this.#worker.postMessage({ id, request });
      } catch (error) {
        this.#settle(id);
        reject(error);
      }
    });
  }
}

let threads: CodecThread[] = [];

const mostThreads = Math.min(availableParallelism(), maxThreads);

/** The thread with the least to do. Threads start when there is work for them and serve until the process ends. */
function idlest(): CodecThread {
  threads = threads.filter((thread) => !thread.hasFailed);
  const idle = threads.find((thread) => thread.load === 0);
  if (idle) return idle;
  if (threads.length < mostThreads) {
    const thread = new CodecThread();
    threads.push(thread);
    return thread;
  }
  return threads.reduce((least, thread) => (thread.load < least.load ? thread : least));
}

/** Starts the threads before there is work, so that they are up when it comes. */
export function startCodec(): void {
  while (threads.length < mostThreads) threads.push(new CodecThread());
}

/** Names the chunks of a batch and compresses those that the base does not have, in their places. */
export function encodeChunks(request: Omit<EncodeRequest, "kind">): Promise<NamedChunk[]> {
  return idlest().run({ kind: "encode", ...request });
}

/** Unpacks and checks chunks of a pack into `output`; for each piece whether it is what its hash tells. */
export function decodeChunks(request: Omit<DecodeRequest, "kind">): Promise<boolean[]> {
  return idlest().run({ kind: "decode", ...request });
}
