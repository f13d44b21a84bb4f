/** What each stage of the work costs on this machine: micro-benchmarks with the volume's real chunks. */

import { hash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { isZero } from "../../lambdas/repository/chunk.ts";
import { forEachInFlight } from "../../lambdas/repository/in-flight.ts";
import { openBenchStore } from "../engine/store.ts";
import { type S3Server, startS3Server } from "../server/s3-server.ts";
import { warmFile, withFile } from "../volume/files.ts";
import { totalLength, type VolumeVersion } from "../volume/volume-pair.ts";
import type { CodecWork } from "./codec-thread.ts";

const mebibyte = 1024 * 1024;
const readBytes = 4 * mebibyte;
/** A pack of the engine. */
const objectBytes = 16 * mebibyte;
/** What the engine asks for at once. */
const rangeBytes = 2 * mebibyte;
const objectCount = 32;
const requestsInFlight = 8;
/** Of zeros to compare, and of chunks to hash, compress and unpack: long enough that a hundredth of a second does not count. */
const zeroBytes = 4096 * mebibyte;
const codecPasses = 2;
const repetitions = 3;

/** What one byte costs. */
export interface StageCost {
  /** Processor time of the client, seconds. */
  readonly client: number;
  readonly server: number;
  /** Seconds until it is done, with nothing else under way. */
  readonly wall: number;
}

export const stageNames = ["read", "zeroTest", "hash", "compress", "decompress", "put", "get", "write"] as const;
export type StageName = (typeof stageNames)[number];
export type StageCosts = Readonly<Record<StageName, StageCost>>;

export interface Stages {
  readonly costs: StageCosts;
  /** Stored bytes for each byte of different chunks. */
  readonly compressedShare: number;
}

export interface StageInput {
  readonly version: VolumeVersion;
  /** Chunks of the volume, the engine's size. */
  readonly samples: readonly Buffer[];
  readonly memory: string;
}

export async function measureStages(input: StageInput): Promise<Stages> {
  const { version, samples, memory } = input;
  await warmFile(version.path, version.extents);
  const sampleBytes = samples.reduce((sum, { length }) => sum + length, 0);
  const compressed = await onAllCores("compress", samples);
  const server = await startS3Server(memory);
  try {
    const costs = {
      read: await cost(totalLength(version.extents), () => readAll(version)),
      zeroTest: await cost(zeroBytes, testZeros),
      hash: await cost(sampleBytes * codecPasses, () => hashAll(samples)),
      compress: compressed.cost,
      decompress: (await onAllCores("decompress", samples)).cost,
      ...(await transfers(server)),
      write: await cost(sampleBytes * codecPasses, () => writeAll(samples, memory)),
    };
    return { costs, compressedShare: compressed.storedBytes / sampleBytes };
  } finally {
    await server.stop();
  }
}

/** The least of some repetitions: what else the machine does can only add to them. */
async function cost(bytes: number, work: () => unknown, server?: S3Server): Promise<StageCost> {
  const runs: StageCost[] = [];
  for (let repetition = 0; repetition < repetitions; repetition++) runs.push(await costOnce(bytes, work, server));
  const least = (value: (run: StageCost) => number) => Math.min(...runs.map(value));
  return { client: least((run) => run.client), server: least((run) => run.server), wall: least((run) => run.wall) };
}

async function costOnce(bytes: number, work: () => unknown, server?: S3Server): Promise<StageCost> {
  const before = { cpu: process.cpuUsage(), server: server?.seconds() ?? 0, time: performance.now() };
  await work();
  const wall = (performance.now() - before.time) / 1000;
  const { user, system } = process.cpuUsage(before.cpu);
  const serverSeconds = (server?.seconds() ?? 0) - before.server;
  return { client: (user + system) / 1e6 / bytes, server: serverSeconds / bytes, wall: wall / bytes };
}

async function readAll({ path, extents }: VolumeVersion): Promise<void> {
  const buffer = Buffer.allocUnsafe(readBytes);
  await withFile(path, "r", async (file) => {
    for (const { offset, length } of extents) {
      for (let at = 0; at < length; at += readBytes) {
        await file.read(buffer, 0, Math.min(readBytes, length - at), offset + at);
      }
    }
  });
}

function testZeros(): void {
  const zeros = Buffer.alloc(readBytes);
  for (let bytes = 0; bytes < zeroBytes; bytes += zeros.length) isZero(zeros);
}

function hashAll(samples: readonly Buffer[]): void {
  for (let pass = 0; pass < codecPasses; pass++) for (const chunk of samples) hash("sha256", chunk, "buffer");
}

/** Each thread has its share of the chunks; all start at once. */
async function onAllCores(
  kind: CodecWork["kind"],
  samples: readonly Buffer[],
): Promise<{ cost: StageCost; storedBytes: number }> {
  const threads = Array.from({ length: availableParallelism() }, (_, thread) => {
    const chunks = samples.filter((_, at) => at % availableParallelism() === thread);
    const workerData: CodecWork = { kind, chunks, passes: codecPasses };
    return new Worker(join(import.meta.dirname, "codec-thread.ts"), { workerData });
  });
  await Promise.all(threads.map((thread) => once(thread, "message")));
  const bytes = codecPasses * samples.reduce((sum, { length }) => sum + length, 0);
  let storedBytes = 0;
  const measured = await cost(bytes, async () => {
    const answers = threads.map((thread) => once(thread, "message"));
    for (const thread of threads) thread.postMessage("go");
    storedBytes = (await Promise.all(answers)).reduce((sum, [answer]) => sum + answer.storedBytes, 0);
  });
  await Promise.all(threads.map((thread) => thread.terminate()));
  return { cost: measured, storedBytes };
}

/** Objects of a pack's size with the engine's own client. A write includes the SHA-256 that the store checks; they are read as a restore reads. */
async function transfers(server: S3Server): Promise<{ put: StageCost; get: StageCost }> {
  const store = openBenchStore(server.access);
  const body = randomBytes(objectBytes);
  const keys = Array.from({ length: objectCount }, (_, at) => `limits/${at}`);
  const each = (work: (key: string) => Promise<unknown>) => () =>
    forEachInFlight(keys, requestsInFlight, async (key) => {
      await work(key);
    });
  const bytes = objectBytes * objectCount;
  // The first requests open connections and warm up the code.
  await each((key) => store.put(key, body))();
  const put = await cost(
    bytes,
    each((key) => store.put(key, body)),
    server,
  );
  const read = async (key: string) => {
    const into = Buffer.allocUnsafeSlow(rangeBytes);
    for (let offset = 0; offset < objectBytes; offset += rangeBytes)
      await store.get(key, { offset, length: rangeBytes, into });
  };
  await each(read)();
  const get = await cost(bytes, each(read), server);
  return { put, get };
}

async function writeAll(samples: readonly Buffer[], memory: string): Promise<void> {
  const path = join(memory, "written.raw");
  await withFile(path, "w", async (file) => {
    for (let pass = 0; pass < codecPasses; pass++) for (const chunk of samples) await file.write(chunk);
  });
  rmSync(path);
}
