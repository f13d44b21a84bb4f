/** A thread that compresses or unpacks its share of the chunks, over and over, until it has had enough bytes. */
import { parentPort, workerData } from "node:worker_threads";
import { encodeChunk, encodings } from "../../lambdas/repository/chunk.ts";
import { decompressInto, mostFrameBytes } from "../../lambdas/repository/zstd.ts";

export interface CodecWork {
  readonly kind: "compress" | "decompress";
  readonly chunks: readonly Uint8Array[];
  readonly passes: number;
}

const { kind, chunks, passes } = workerData as CodecWork;
const encoded = chunks.map((chunk) => encodeChunk(chunk));
const storedBytes = encoded.reduce((sum, { bytes }) => sum + bytes.length, 0);
const mostBytes = Math.max(0, ...chunks.map(({ length }) => length));
const target = new Uint8Array(mostBytes);
const room = new Uint8Array(mostFrameBytes(mostBytes));

function compress(): void {
  for (const chunk of chunks) encodeChunk(chunk, room);
}

function decompress(): void {
  for (const [at, { encoding, bytes }] of encoded.entries()) {
    if (encoding === encodings.zstd) decompressInto(target.subarray(0, chunks[at]!.length), bytes);
  }
}

parentPort!.postMessage({ ready: true });
parentPort!.on("message", () => {
  for (let pass = 0; pass < passes; pass++) (kind === "compress" ? compress : decompress)();
  parentPort!.postMessage({ storedBytes });
});
