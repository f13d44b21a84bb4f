import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, copyAll, planBackup, SparseVolume } from "../../test/support/repository.ts";
import { openDescription, sealDescription } from "./description.ts";
import { DomainCipher } from "./domain-cipher.ts";
import { domainKeys } from "./layout.ts";
import { decodeRoot } from "./manifest.ts";
import { unpinJob } from "./pin.ts";
import { publishRoot } from "./publish.ts";
import { readRoot } from "./reader.ts";
import { verifyBackup } from "./verify.ts";

const cipher = new DomainCipher(new Uint8Array(32).fill(7));
const wrappedKey = Uint8Array.of(1);
const names = { name: "payroll of the board", "tag:customer": "Müller" };

describe("the description in a root", () => {
  it("is as it was given where nothing is encrypted, and nothing where nothing was given", () => {
    assert.equal(sealDescription(undefined, "snap1", names), names);
    assert.deepEqual(sealDescription(cipher, "snap1", {}), {});
    const root = { snapshotId: "snap1", description: names, wrappedKey: new Uint8Array() };
    assert.deepEqual(openDescription(undefined, root), names);
  });

  it("is sealed in an encrypted domain: the same bytes each time, of a length that tells little", () => {
    const sealed = sealDescription(cipher, "snap1", names);
    assert.deepEqual(sealDescription(cipher, "snap1", { ...names }), sealed);
    assert.notDeepEqual(sealDescription(cipher, "snap2", names), sealed);
    assert.deepEqual(Object.keys(sealed), ["sealed"]);
    const bytes = Buffer.from(sealed.sealed ?? "", "base64");
    assert.equal(bytes.length, 12 + 512 + 16);
    assert.ok(!bytes.includes("board") && !JSON.stringify(sealed).includes("board"));
    assert.equal(Buffer.from(sealDescription(cipher, "snap1", { name: "x" }).sealed ?? "", "base64").length, 540);
  });

  it("is opened by the domain's key, for its own snapshot, and only whole", () => {
    const texts = fc.dictionary(fc.string(), fc.string(), { noNullPrototype: true });
    fc.assert(
      fc.property(texts, (given) => {
        const description = sealDescription(cipher, "snap1", given);
        assert.deepEqual(openDescription(cipher, { snapshotId: "snap1", description, wrappedKey }), given);
      }),
    );
    const description = sealDescription(cipher, "snap1", names);
    const root = { snapshotId: "snap1", description, wrappedKey };
    assert.equal(openDescription(undefined, root), undefined);
    assert.equal(openDescription(new DomainCipher(new Uint8Array(32)), root), undefined);
    assert.equal(openDescription(cipher, { ...root, snapshotId: "snap2" }), undefined);
    const bytes = Buffer.from(description.sealed ?? "", "base64");
    for (const length of [0, 11, 27, 28, bytes.length - 1]) {
      const cut = { sealed: bytes.subarray(0, length).toString("base64") };
      assert.equal(openDescription(cipher, { ...root, description: cut }), undefined, `${length} bytes`);
    }
    for (let at = 0; at < bytes.length; at += 37) {
      const changed = Buffer.from(bytes);
      changed[at]! ^= 1;
      const description = { sealed: changed.toString("base64") };
      assert.equal(openDescription(cipher, { ...root, description }), undefined, `byte ${at}`);
    }
  });

  it("comes with what the backup took in the store, and a replay that tells another keeps the first", async () => {
    const store = new MemoryObjectStore();
    const target = { store, domain: "d", snapshotId: "snap1", jobId: "job1" };
    const volume = SparseVolume.of(randomBytes(300_000));
    const plan = await planBackup(target, volume);
    await copyAll(target, plan, volume);
    await verifyBackup(target, { planHash: plan.planHash, until: () => false });
    const first = await publishRoot(target, { planHash: plan.planHash, description: { name: "a" } });
    const again = await publishRoot(target, { planHash: plan.planHash, description: { name: "b" } });
    assert.equal(again.logicalBytes, first.logicalBytes);
    const object = await store.get(domainKeys("d").root("snap1"));
    const storedBytes = String(first.storedBytes - (object?.length ?? 0));
    assert.deepEqual((await readRoot(target)).description, { name: "a", storedBytes });
    await unpinJob(target);
  });

  it("hides names from the store of an encrypted domain", async () => {
    const store = new MemoryObjectStore();
    const dataKey = new Uint8Array(32).fill(9);
    const keys = {
      generate: async () => ({ plaintext: dataKey, wrapped: Uint8Array.of(4, 2) }),
      unwrap: async () => dataKey,
    };
    const target = { store, domain: "d", snapshotId: "snap1", jobId: "job1", keys };
    const volume = SparseVolume.of(randomBytes(300_000));
    const plan = await planBackup(target, volume);
    await copyAll(target, plan, volume);
    await verifyBackup(target, { planHash: plan.planHash, until: () => false });
    await publishRoot(target, { planHash: plan.planHash, description: names });
    const key = domainKeys("d").root("snap1");
    const object = Buffer.from((await store.get(key)) ?? new Uint8Array());
    assert.ok(!object.includes("payroll") && !object.includes("customer"));
    const root = decodeRoot(object, key, new DomainCipher(dataKey));
    const { storedBytes, ...opened } = openDescription(new DomainCipher(dataKey), root) ?? {};
    assert.deepEqual(opened, names);
    assert.match(storedBytes ?? "", /^\d+$/);
    await backup({ ...target, snapshotId: "snap2", jobId: "job2" }, volume, ["snap1"]);
    assert.deepEqual((await readRoot({ ...target, snapshotId: "snap2" })).description, {});
  });
});
