import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { cloud, type TestCloud } from "../support/cloud.ts";
import { registerStore, type TestStore, versionsIn } from "../support/stores.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";

const MiB = 2 ** 20;

let test: TestCloud;
before(async () => {
  test = await cloud();
});

describe("a deletion that leaves little in the packs of others", () => {
  let hypervisor: TestHypervisor;
  const stores: TestStore[] = [];
  before(async () => {
    hypervisor = await TestHypervisor.register(test);
  });
  after(async () => {
    for (const store of stores) await store.close();
    await hypervisor?.remove();
  });

  async function backUp(volumeId: string, storeId: string): Promise<string> {
    const created = await test.call("POST", `/volumes/${volumeId}/snapshots`, { body: { storeId } });
    const snapshot = await snapshotIn(test, created.body.snapshot.id, ["BackedUp", "Error"]);
    assert.equal(snapshot.state, "BackedUp", JSON.stringify(snapshot));
    await endedJob(test, created.body.job.id);
    return snapshot.id;
  }

  async function erase(id: string): Promise<void> {
    const answer = await test.call("DELETE", `/snapshots/${id}`);
    assert.equal(answer.status, 202, JSON.stringify(answer.body));
    await snapshotIn(test, id, ["Destroyed"]);
  }

  for (const encryption of ["none", "client"] as const)
    it(`compacts them, and what they hold is restored and built upon (encryption: ${encryption})`, async () => {
      const store = await registerStore(test, "acme", { encryption });
      stores.push(store);
      const name = `sparse-${encryption}`;
      const volumeId = await hypervisor.addVolume(name, 64 * MiB, [{ offset: 0, data: noise(4 * MiB) }]);
      const first = await backUp(volumeId, store.id);
      await hypervisor.change(name, [{ offset: MiB, data: noise(3 * MiB) }]);
      const second = await backUp(volumeId, store.id);
      const packs = async () => (await versionsIn(test, store.bucket)).filter((key) => key.includes("/packs/"));
      const before = await packs();
      assert.equal(before.length, 2);
      await erase(first);
      const after = await packs();
      assert.equal(after.length, 2, after.join());
      assert.deepEqual(
        after.map((key) => key.replace(/\.1$/, "")),
        before,
      );
      assert.ok(after.some((key) => key.endsWith(".1")));

      await hypervisor.change(name, [{ offset: 0, data: noise(1000) }]);
      const created = await test.call("POST", `/volumes/${volumeId}/snapshots`, {
        body: { storeId: store.id, verify: "full" },
      });
      const third = await snapshotIn(test, created.body.snapshot.id, ["BackedUp", "Error"]);
      assert.equal(third.state, "BackedUp", JSON.stringify(third));
      assert.equal((await endedJob(test, created.body.job.id)).backup.base, second);
      const { body } = await test.call("POST", `/snapshots/${third.id}/restore`, {
        body: { target: { hypervisorId: hypervisor.id, name: `${name}-copy` } },
      });
      assert.equal((await endedJob(test, body.job.id)).state, "Succeeded");
      assert.equal(await hypervisor.digest(`${name}-copy`), await hypervisor.digest(name));
      await erase(second);
      await erase(third.id);
      assert.deepEqual(await versionsIn(test, store.bucket), []);
    });
});
