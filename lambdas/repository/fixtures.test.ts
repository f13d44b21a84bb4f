/** Repositories of format 1 as an earlier version left them (test/fixtures/format-1): every later version reads them and goes on with them. */
import assert from "node:assert/strict";
import { createHash, hash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { describe, test } from "node:test";
import * as z from "zod";
import { DocumentReader } from "../../test/support/document-reader.ts";
import { MemoryKeyService } from "../../test/support/memory-key-service.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import {
  backup,
  finishBackup,
  never,
  planBackup,
  planHinted,
  restore,
  SparseVolume,
} from "../../test/support/repository.ts";
import { RepositoryDamaged } from "../domain/errors.ts";
import { openDescription } from "./description.ts";
import { openCipher } from "./domain-cipher.ts";
import { snapshotsIn } from "./inspect.ts";
import { originalPack } from "./layout.ts";
import type { BackupTarget } from "./pin.ts";
import { readRoot } from "./reader.ts";
import { sampleCheck } from "./sample-check.ts";
import { deleteBackup, sweepDomain } from "./sweep.ts";
import { verifyBackup } from "./verify.ts";
import { copyShard } from "./writer.ts";

const fixtures = join(import.meta.dirname, "../../test/fixtures/format-1");
const hourMs = 60 * 60 * 1000;

/**
 * SHA-256 of each folder: of every file's path and bytes, in order. Tokens and keys in them are random, so that files made anew have another
 * one. It is never changed: what is in these folders is what customers have.
 */
const digests: Readonly<Record<string, string>> = {
  compacted: "69e3045198d6f27285aba2753466471f918bab6e8e2334ef37a5f822dff15a60",
  "compacted-encrypted": "0683b19c6731b9cba9f9fbc8a2b1e4368857e1c8e454807c1437e87bf6e74f24",
  encrypted: "a0f7ef7a4e100804d2c3bb6f8530d739d92ddad420a352034bfd00c9924d46e5",
  plain: "8731c13a3b54415b818b9e1dd9b08b212274da1982ecec12a8cbd24b5b730071",
};

const expectedSchema = z.strictObject({
  domain: z.string(),
  keyServiceKey: z.string().optional(),
  snapshots: z
    .array(
      z.strictObject({
        id: z.string(),
        sizeBytes: z.int(),
        sha256: z.string(),
        description: z.record(z.string(), z.string()),
      }),
    )
    .min(2),
  deleted: z.array(z.string()),
});

interface File {
  readonly path: string;
  readonly bytes: Buffer;
}

function filesIn(folder: string): File[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name))
    .map((path) => ({ path: relative(folder, path), bytes: readFileSync(path) }))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

function digestOf(files: readonly File[]): string {
  const digest = createHash("sha256");
  for (const { path, bytes } of files) digest.update(`${path}\n${bytes.length}\n`).update(bytes);
  return digest.digest("hex");
}

const folders = readdirSync(fixtures, { withFileTypes: true }).filter((entry) => entry.isDirectory());

test("the repositories that are kept are all there", () => {
  assert.deepEqual(folders.map(({ name }) => name).sort(), Object.keys(digests).sort());
});

for (const { name } of folders) {
  const files = filesIn(join(fixtures, name));
  const expected = expectedSchema.parse(JSON.parse(readFileSync(join(fixtures, name, "expected.json"), "utf8")));
  const { domain, keyServiceKey, snapshots } = expected;
  const [oldest, newest] = [snapshots[0]!, snapshots.at(-1)!];
  const keys = keyServiceKey === undefined ? undefined : new MemoryKeyService(Buffer.from(keyServiceKey, "hex"));

  async function open() {
    const store = new MemoryObjectStore();
    for (const { path, bytes } of files) if (path.startsWith("domains/")) await store.put(path, bytes);
    const location = { store, domain, ...(keys && { keys }) };
    const job = (snapshotId: string, jobId = `job_of_${snapshotId}`): BackupTarget => ({
      ...location,
      snapshotId,
      jobId,
    });
    const contentOf = async (snapshotId: string) => (await restore(job(snapshotId, "restore"))).content();
    const assertHolds = async (kept = snapshots) => {
      for (const { id, sha256 } of kept) assert.equal(hash("sha256", await contentOf(id), "hex"), sha256, id);
    };
    return { store, location, job, contentOf, assertHolds };
  }

  describe(`the kept repository "${name}"`, () => {
    test("is as it was written", () => {
      assert.equal(digestOf(files), digests[name]);
    });

    if (name.startsWith("compacted"))
      test("has packs in their first and in their second form, and not as they were written", async () => {
        const { store } = await open();
        const packs = store.keys(`domains/${domain}/packs/`).map(originalPack);
        const forms = packs.filter(({ generation }) => generation > 0);
        assert.deepEqual(forms.map(({ generation }) => generation).sort(), [1, 2]);
        assert.equal(new Set(packs.map(({ pack }) => pack)).size, packs.length);
      });

    test("lists its snapshots with their descriptions", async () => {
      const { store, job } = await open();
      const listed = await Array.fromAsync(snapshotsIn(store, domain));
      assert.deepEqual(
        listed.map(({ snapshotId }) => snapshotId),
        snapshots.map(({ id }) => id),
      );
      for (const { id, sizeBytes, description } of snapshots) {
        const root = await readRoot(job(id));
        assert.equal(root.sizeBytes, sizeBytes);
        const opened = openDescription(keys && (await openCipher(job(id), root.wrappedKey)), root);
        assert.deepEqual({ ...opened, ...description }, opened);
      }
    });

    test("restores each of them byte for byte, and what was deleted is gone", async () => {
      const { job, assertHolds } = await open();
      await assertHolds();
      for (const id of expected.deleted) await assert.rejects(restore(job(id)), RepositoryDamaged);
    });

    test("is found whole by a check of every chunk", async () => {
      const { job } = await open();
      for (const { id } of snapshots) {
        const check = await sampleCheck(job(id), { percent: 100, seed: "fixture", until: never });
        assert.deepEqual([check.finished, check.lost], [true, []]);
        assert.ok(check.checkedChunks > 0);
      }
    });

    test("is read by a reader that was written from the document", async () => {
      const { store } = await open();
      const unwrap = keys && { unwrap: (wrapped: Uint8Array) => keys.unwrap(wrapped, { domain }) };
      const reader = new DocumentReader({ domain, get: (key) => store.get(key), ...unwrap });
      for (const { id, sha256 } of snapshots) assert.equal(hash("sha256", await reader.volume(id), "hex"), sha256);
    });

    test("is a base: nothing unchanged is stored again, by comparing or by a hint", async () => {
      const { store, job, contentOf, assertHolds } = await open();
      const content = await contentOf(newest.id);
      const before = new Set(store.keys());
      await backup(job("same"), SparseVolume.of(content), [newest.id]);
      assert.deepEqual(
        store.keys().filter((key) => !before.has(key)),
        [`domains/${domain}/roots/same`],
      );
      content.write("changed after many years", 5_000);
      const volume = SparseVolume.of(content);
      const changed = [{ offset: 5_000, length: 24 }];
      const plan = await planHinted(job("changed"), volume, { base: newest.id, changed });
      assert.ok(plan.hinted);
      await finishBackup(job("changed"), plan, volume);
      assert.equal(store.keys(`domains/${domain}/packs/job_of_changed/`).length, 1);
      assert.deepEqual(await contentOf("changed"), content);
      await assertHolds();
    });

    test("is verified in full as the base of a backup", async () => {
      const { job, contentOf } = await open();
      const volume = SparseVolume.of(await contentOf(newest.id));
      const { planHash, shardCount } = await planBackup(job("next"), volume, [newest.id]);
      assert.ok(shardCount > 0);
      for (let shard = 0; shard < shardCount; shard++)
        await copyShard(job("next"), { planHash, shard, attempt: 1, reader: volume, until: never });
      assert.deepEqual(await verifyBackup(job("next"), { planHash, until: never, full: true }), { finished: true });
    });

    test("keeps through a sweep what it needs, and loses all with its last snapshot", async () => {
      const { store, location, job, assertHolds } = await open();
      const later = { until: never, now: () => Date.now() + 2 * hourMs };
      const isNote = (key: string) => key.startsWith(`domains/${domain}/dropped/`);
      const before = store.keys().filter((key) => !isNote(key));
      await sweepDomain(location, later);
      assert.deepEqual(store.keys(), before);
      await deleteBackup(job(oldest.id));
      assert.ok((await sweepDomain(location, later)).deletedObjects > 0);
      await assertHolds(snapshots.slice(1));
      for (const { id } of snapshots) await deleteBackup(job(id));
      await sweepDomain(location, later);
      assert.deepEqual(store.keys(), []);
    });
  });
}
