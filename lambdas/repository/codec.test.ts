import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import type { Worker } from "node:worker_threads";
import { isRetryable } from "../domain/errors.ts";
import { chunkHash } from "./chunk.ts";
import { encodeChunks } from "./codec.ts";

const chunkBytes = 4096;

function shared(bytes: Uint8Array): Uint8Array<SharedArrayBuffer> {
  const copy = new Uint8Array(new SharedArrayBuffer(bytes.length));
  copy.set(bytes);
  return copy;
}

describe("the codec", () => {
  it("answers in order, however many requests are under way", async () => {
    const batches = Array.from({ length: 40 }, () => shared(randomBytes(chunkBytes * 2)));
    const answers = await Promise.all(
      batches.map((bytes) =>
        encodeChunks({ bytes, chunkBytes, expected: [undefined, undefined], chunkIdKey: undefined }),
      ),
    );
    for (const [at, chunks] of answers.entries())
      assert.deepEqual(
        chunks.map((chunk) => chunk?.hash),
        [0, 1].map((n) => chunkHash(batches[at]!.subarray(n * chunkBytes, (n + 1) * chunkBytes))),
      );
  });

  it("goes on after requests that cannot be sent to a thread, or that fail there", async () => {
    const request = {
      bytes: shared(randomBytes(chunkBytes)),
      chunkBytes,
      expected: [undefined],
      chunkIdKey: undefined,
    };
    const notToBeSent = { ...request, chunkIdKey: (() => 0) as unknown as Uint8Array };
    const failing = { ...request, expected: 1 as unknown as undefined[] };
    for (const wrong of [notToBeSent, failing, notToBeSent, failing]) await assert.rejects(encodeChunks(wrong));
    assert.equal((await encodeChunks(request)).length, 1);
  });

  it("keeps no process that has nothing more to do, also where a thread never had any work", () => {
    const folder = mkdtempSync(join(tmpdir(), "snapferry-codec-"));
    try {
      const program = join(folder, "program.mjs");
      writeFileSync(
        program,
        `import { startCodec } from ${JSON.stringify(import.meta.resolve("./codec.ts"))};\nstartCodec();`,
      );
      const { status, signal } = spawnSync(process.execPath, [program], { timeout: 60_000 });
      assert.deepEqual([status, signal], [0, null]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it("says at once that a thread has ended in the middle of its work, which is worth another attempt, and goes on", async () => {
    const threads: Worker[] = [];
    const note = (thread: Worker) => threads.push(thread);
    process.on("worker", note);
    // With threads of its own: those that other tests have started are known to nobody.
    const { encodeChunks } = (await import(
      `${import.meta.resolve("./codec.ts")}?alone.ts`
    )) as typeof import("./codec.ts");
    const bytes = shared(randomBytes(chunkBytes * 4096));
    const work = () =>
      encodeChunks({ bytes, chunkBytes, expected: Array(4096).fill(undefined), chunkIdKey: undefined });
    try {
      await Promise.all(Array.from({ length: availableParallelism() }, work));
      const answers = [work(), work(), work()].map((answer) => answer.catch((error: unknown) => error));
      await Promise.all(threads.map((thread) => thread.terminate()));
      for (const error of await Promise.all(answers))
        assert.ok(error instanceof Error && /thread of the codec has ended/.test(error.message) && isRetryable(error));
      assert.equal((await work()).length, 4096);
    } finally {
      process.off("worker", note);
    }
  });
});
