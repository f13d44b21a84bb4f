import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { DeleteObjectCommand, GetObjectRetentionCommand, ListObjectVersionsCommand } from "@aws-sdk/client-s3";
import { cloud, type TestCloud } from "../support/cloud.ts";
import { registerStore, type TestStore } from "../support/stores.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";

const MiB = 2 ** 20;
const dayMs = 24 * 60 * 60 * 1000;

let test: TestCloud;
before(async () => {
  test = await cloud();
});

describe("a store with Object Lock", () => {
  let store: TestStore;
  let hypervisor: TestHypervisor;
  before(async () => {
    const objectLock = { mode: "governance", days: 2 } as const;
    store = await registerStore(test, "acme", { lockable: true, objectLock });
    hypervisor = await TestHypervisor.register(test);
  });
  after(async () => {
    await hypervisor?.remove();
    await store?.close();
  });

  /** Backs the volume up; answers the snapshot's row. */
  async function backUp(volumeId: string) {
    const created = await test.call("POST", `/volumes/${volumeId}/snapshots`, { body: { storeId: store.id } });
    const snapshot = await snapshotIn(test, created.body.snapshot.id, ["BackedUp", "Error"]);
    assert.equal(snapshot.state, "BackedUp", JSON.stringify(snapshot));
    await endedJob(test, created.body.job.id);
    return (await test.call("GET", `/snapshots/${snapshot.id}`)).body;
  }

  /** Versions of repository objects, but for what jobs delete when they end, with the time until which each is retained. */
  async function retentions(): Promise<Map<string, { VersionId: string; until: string | undefined }>> {
    const { Versions } = await test.clients.s3.send(new ListObjectVersionsCommand({ Bucket: store.bucket }));
    const found = new Map<string, { VersionId: string; until: string | undefined }>();
    for (const { Key = "", VersionId = "" } of Versions ?? []) {
      if (!/\/(packs|pages|roots)\/|\/domain\.json$/.test(Key)) continue;
      const target = { Bucket: store.bucket, Key, VersionId };
      const { Retention } = await test.clients.s3
        .send(new GetObjectRetentionCommand(target))
        .catch(() => ({ Retention: undefined }));
      if (Retention) assert.equal(Retention.Mode, "GOVERNANCE", Key);
      found.set(Key, { VersionId, until: Retention?.RetainUntilDate?.toISOString() });
    }
    return found;
  }

  it("keeps every object of a backup until the date that its snapshot shows, and extends what a second one uses again", async () => {
    const volumeId = await hypervisor.addVolume("kept", 64 * MiB, [{ offset: 0, data: noise(3 * MiB) }]);
    const first = await backUp(volumeId);
    const expected = Date.parse(first.backedUpAt) + 2 * dayMs;
    assert.ok(Math.abs(Date.parse(first.lockedUntil) - expected) < 60_000, JSON.stringify(first));
    const afterFirst = await retentions();
    assert.ok([...afterFirst.keys()].some((key) => key.includes("/packs/")));
    for (const [key, { until }] of afterFirst) assert.equal(until, first.lockedUntil, key);

    const refused = await test.call("DELETE", `/snapshots/${first.id}`);
    assert.deepEqual([refused.status, refused.body.type], [409, "/problems/snapshot-is-locked"]);
    assert.equal(refused.body.lockedUntil, first.lockedUntil);
    const [Key = "", { VersionId = "" } = {}] = [...afterFirst].find(([key]) => key.includes("/packs/")) ?? [];
    await assert.rejects(test.clients.s3.send(new DeleteObjectCommand({ Bucket: store.bucket, Key, VersionId })));

    const changed = await test.call("PATCH", `/stores/${store.id}`, {
      role: "admin",
      body: { objectLock: { mode: "governance", days: 5 } },
    });
    assert.equal(changed.status, 200, JSON.stringify(changed.body));
    await hypervisor.change("kept", [{ offset: MiB, data: noise(1000) }]);
    const second = await backUp(volumeId);
    assert.ok(Date.parse(second.lockedUntil) - Date.parse(first.lockedUntil) > 2 * dayMs, JSON.stringify(second));
    const afterSecond = await retentions();
    const shared = [...afterFirst.keys()].filter((key) => afterSecond.get(key)?.until === second.lockedUntil);
    assert.ok(
      shared.some((key) => key.includes("/packs/")),
      "the pack of the first backup is used again",
    );
    for (const [key, { until }] of afterSecond) {
      const isOfFirstAlone = afterFirst.has(key) && !shared.includes(key);
      assert.equal(until, isOfFirstAlone ? first.lockedUntil : second.lockedUntil, key);
    }
    const root = [...afterSecond.keys()].find((key) => key.endsWith(`/roots/${first.id}`)) ?? "";
    assert.equal(afterSecond.get(root)?.until, first.lockedUntil);
  });

  it("locks nothing any more once the option is gone, and such a snapshot is deleted beside the locked ones", async () => {
    const volumeId = await hypervisor.addVolume("free", 64 * MiB, [{ offset: 0, data: noise(2 * MiB) }]);
    const locked = await backUp(volumeId);
    await test.call("PATCH", `/stores/${store.id}`, { role: "admin", body: { objectLock: null } });
    await hypervisor.change("free", [{ offset: MiB, data: noise(200_000) }]);
    const free = await backUp(volumeId);
    assert.ok(!("lockedUntil" in free), JSON.stringify(free));
    assert.equal((await test.call("DELETE", `/snapshots/${free.id}`)).status, 202);
    await snapshotIn(test, free.id, ["Destroyed"]);
    assert.ok([...(await retentions()).keys()].every((key) => !key.endsWith(`/roots/${free.id}`)));
    const { body } = await test.call("POST", `/snapshots/${locked.id}/restore`, {
      body: { target: { hypervisorId: hypervisor.id, name: "free-copy" } },
    });
    assert.equal((await endedJob(test, body.job.id)).state, "Succeeded");
  });
});
