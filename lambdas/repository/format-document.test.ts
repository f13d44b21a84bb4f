/** A reader written from `docs/repository-format.md` alone: if it fails, the document no longer tells the format. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { DocumentReader } from "../../test/support/document-reader.ts";
import { MemoryKeyService } from "../../test/support/memory-key-service.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, copyAll, never, planBackup, SparseVolume, smallGeometry } from "../../test/support/repository.ts";
import { ensureDomain } from "./domain-record.ts";
import { publishRoot } from "./publish.ts";
import { verifyBackup } from "./verify.ts";

for (const isEncrypted of [false, true]) {
  const what = isEncrypted ? "an encrypted chain" : "a chain";
  test(`a reader written from the document reads every snapshot of ${what}`, async () => {
    const store = new MemoryObjectStore();
    const keys = isEncrypted ? new MemoryKeyService() : undefined;
    const location = { store, domain: "vol", ...(keys && { keys }) };
    await ensureDomain(location, { geometry: smallGeometry });
    const content = Buffer.concat([
      randomBytes(9_000),
      Buffer.alloc(20_000),
      Buffer.alloc(10_000, "text "),
      randomBytes(77),
    ]);
    const contents: Buffer[] = [];
    for (const n of [1, 2, 3]) {
      content.set(randomBytes(600), n * 5_000);
      contents.push(Buffer.from(content));
      const target = { ...location, snapshotId: `snap${n}`, jobId: `job${n}` };
      await backup(target, SparseVolume.of(content), n === 1 ? [] : [`snap${n - 1}`]);
    }
    const reader = new DocumentReader({
      domain: "vol",
      get: (key) => store.get(key),
      ...(keys && { unwrap: (wrapped) => keys.unwrap(wrapped, { domain: "vol" }) }),
    });
    for (const [n, expected] of contents.entries()) assert.deepEqual(await reader.volume(`snap${n + 1}`), expected);
    assert.deepEqual(await reader.description("snap1"), {});
    const told = { ...location, snapshotId: "snap4", jobId: "job4" };
    const volume = SparseVolume.of(content);
    const plan = await planBackup(told, volume, ["snap3"]);
    await copyAll(told, plan, volume);
    await verifyBackup(told, { planHash: plan.planHash, until: never });
    const names = { volumeName: "board minutes é", "tag:a": "b" };
    await publishRoot(told, { planHash: plan.planHash, description: names });
    const { storedBytes, ...rest } = await reader.description("snap4");
    assert.deepEqual(rest, names);
    assert.match(storedBytes ?? "", /^\d+$/);
  });
}
