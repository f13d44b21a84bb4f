import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, SparseVolume, smallGeometry, useGeometry } from "../../test/support/repository.ts";
import { dedupDomain } from "../domain/inventory.ts";
import { parseSettings } from "../domain/settings.ts";
import type { Snapshot, SnapshotState } from "../domain/snapshot.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import { domainKeys } from "../repository/layout.ts";
import type { Services } from "../services.ts";
import { anchorsOf } from "../tables/anchors.ts";
import { keepAnchor, rebaseAnchor } from "./keep-anchor.ts";
import { settlePrimary } from "./remove-primary.ts";

const hypervisorId = "hyp_1";
const volume = { tenant: "acme", id: "vol_1" };
const domain = dedupDomain(volume.tenant, volume.id);
const options = { jobId: "job_1", waitSeconds: 60, until: () => false };
const { chunkBytes } = smallGeometry;
const chunks = 40;

/** A volume whose snapshots differ in chunks that are told, and a hypervisor that tracks changes. */
class Volume {
  readonly memory = new MemoryDatabase().put("volumes", { ...volume, backingUp: 0, missing: false });
  readonly store = new MemoryObjectStore();
  readonly deleted: string[] = [];
  retention = "reference";
  changeTracking = true;
  finishes = true;
  #content = randomBytes(chunks * chunkBytes);
  #previous: string[] = [];

  async add(id: string, changedChunks: readonly number[], state: SnapshotState = "BackedUp", storeId = "default") {
    this.#content = Buffer.from(this.#content);
    for (const at of changedChunks) this.#content.set(randomBytes(chunkBytes), at * chunkBytes);
    const row = { tenant: "acme", volumeId: volume.id, hypervisorId, hypervisorTenant: "acme", storeId };
    this.memory.put("snapshots", { ...row, id, state, volumeKey: `acme#${volume.id}`, backedUpAt: "2026-01-01" });
    const reference = { tenant: "acme", snapshotId: id, role: "Primary", storeId: hypervisorId, state: "Ready" };
    const place = { reference: `${id}#Primary#${hypervisorId}`, installPath: `/srv/${id}`, physicalBytes: 7 };
    this.memory.put("storeReferences", { ...reference, ...place });
    if (state !== "BackedUp") return;
    await useGeometry(this.store, domain, smallGeometry);
    const target = { store: this.store, domain, snapshotId: id, jobId: `job-${id}` };
    await backup(target, SparseVolume.of(this.#content), this.#previous);
    this.#previous = [id, ...this.#previous];
  }

  snapshot(id: string): Snapshot {
    const row = this.memory.get("snapshots", { tenant: "acme", id });
    return { ...row, readers: [] } as unknown as Snapshot;
  }

  /** As the deletion of the snapshot leaves it. */
  async delete(id: string) {
    const row = this.memory.get("snapshots", { tenant: "acme", id })!;
    this.memory.put("snapshots", { ...row, state: "Destroying" });
    const rebased = await rebaseAnchor(this.services, this.snapshot(id), options);
    if (rebased !== "gone") return rebased;
    const kept = await keepAnchor(this.services, this.snapshot(id), options);
    await this.store.deleteEveryVersion([domainKeys(domain).root(id)]);
    return kept;
  }

  async anchor() {
    const [anchor, ...others] = await anchorsOf(this.memory.database, volume);
    assert.deepEqual(others, []);
    return anchor;
  }

  /** Numbers of the chunks that the anchor calls changed. */
  async changed(): Promise<number[]> {
    const { changed = [] } = (await this.anchor()) ?? {};
    return changed.flatMap((offset, at) =>
      at % 2 === 0 ? Array.from({ length: changed[at + 1]! / chunkBytes }, (_, n) => offset / chunkBytes + n) : [],
    );
  }

  hasReference(id: string): boolean {
    const key = { tenant: "acme", reference: `${id}#Primary#${hypervisorId}` };
    return this.memory.get("storeReferences", key) !== undefined;
  }

  get services(): Services {
    const hypervisor = {
      capabilities: { quiesce: false, changeTracking: this.changeTracking, snapshotCopies: false },
      deleteSnapshot: async (installPath: string) => {
        this.deleted.push(installPath);
        return { finished: this.finishes };
      },
    } as unknown as Hypervisor;
    const settings = parseSettings({ "primary.retain": this.retention });
    return {
      database: this.memory.database,
      settings: async () => settings,
      hypervisor: async () => hypervisor,
      objectStore: async () => this.store,
      keyService: async () => undefined,
      now: () => new Date(),
    } as unknown as Services;
  }
}

async function withSnapshots(...changes: (readonly number[])[]): Promise<Volume> {
  const made = new Volume();
  for (const [at, changed] of changes.entries()) await made.add(`snap_${at}`, changed);
  return made;
}

describe("the copy of the newest backed up snapshot", () => {
  it("stays as an anchor when the snapshot is deleted, with what changed since the one before", async () => {
    const made = await withSnapshots([], [3, 4, 30]);
    assert.equal(await made.delete("snap_1"), "gone");
    const { snapshotId, installPath, baseSnapshotId, physicalBytes } = (await made.anchor())!;
    assert.deepEqual([snapshotId, installPath, baseSnapshotId], ["snap_1", "/srv/snap_1", "snap_0"]);
    assert.equal(physicalBytes, 7);
    assert.deepEqual(await made.changed(), [3, 4, 30]);
    assert.equal(made.hasReference("snap_1"), false);
    assert.deepEqual(made.deleted, []);
    // A deletion that died after that and comes again.
    assert.equal(await made.delete("snap_1"), "gone");
    assert.deepEqual(await made.changed(), [3, 4, 30]);
  });

  it("is no anchor when a newer one is backed up or about to be, or none is left to build on", async () => {
    const middle = await withSnapshots([], [1], [2]);
    assert.equal(await middle.delete("snap_1"), undefined);
    const followed = await withSnapshots([], [1]);
    await followed.add("snap_2", [2], "BackingUp");
    assert.equal(await followed.delete("snap_1"), undefined);
    const alone = await withSnapshots([]);
    assert.equal(await alone.delete("snap_0"), undefined);
    for (const made of [middle, followed, alone]) assert.equal(await made.anchor(), undefined);
  });

  it("is one although another was taken that waits for its backup, or goes to another store", async () => {
    const made = await withSnapshots([], [1]);
    await made.add("snap_2", [2], "CreatedOnPrimary");
    await made.add("snap_3", [3], "BackingUp", "store_2");
    assert.equal(await made.delete("snap_1"), "gone");
    assert.deepEqual(await made.changed(), [1]);
  });

  it("is none where copies are not kept, changes not tracked, or the earlier backup is damaged", async () => {
    const unkept = await withSnapshots([], [1]);
    unkept.retention = "false";
    const untracked = await withSnapshots([], [1]);
    untracked.changeTracking = false;
    const damaged = await withSnapshots([], [1]);
    await damaged.store.deleteEveryVersion([domainKeys(domain).root("snap_0")]);
    for (const made of [unkept, untracked, damaged]) {
      assert.equal(await made.delete("snap_1"), undefined);
      assert.equal(await made.anchor(), undefined);
      assert.equal(made.hasReference("snap_1"), true);
    }
  });

  it("is none when there is no time to compare", async () => {
    const made = await withSnapshots([], [1]);
    assert.equal(
      await keepAnchor(made.services, made.snapshot("snap_1"), { ...options, until: () => true }),
      undefined,
    );
    assert.equal(await made.anchor(), undefined);
  });
});

describe("an anchor", () => {
  it("goes on to an older base when its base is deleted, with the changes of both", async () => {
    const made = await withSnapshots([], [1, 5], [5, 9]);
    await made.delete("snap_2");
    await made.delete("snap_1");
    assert.equal((await made.anchor())?.baseSnapshotId, "snap_0");
    assert.deepEqual(await made.changed(), [1, 5, 9]);
    assert.deepEqual(made.deleted, []);
  });

  it("is merged away once a newer snapshot is backed up to its store", async () => {
    const made = await withSnapshots([], [1]);
    await made.delete("snap_1");
    await made.add("snap_2", [2], "BackedUp", "store_2");
    assert.equal(await settlePrimary(made.services, made.snapshot("snap_2"), options), true);
    assert.ok(await made.anchor());
    await made.add("snap_3", [3]);
    made.finishes = false;
    assert.equal(await settlePrimary(made.services, made.snapshot("snap_3"), options), false);
    assert.ok(await made.anchor());
    made.finishes = true;
    assert.equal(await settlePrimary(made.services, made.snapshot("snap_3"), options), true);
    assert.equal(await made.anchor(), undefined);
    assert.ok(made.deleted.includes("/srv/snap_1"));
    assert.equal(made.hasReference("snap_3"), true);
  });

  it("goes with the last snapshot that it was kept for, in its time", async () => {
    const made = await withSnapshots([], [1]);
    await made.delete("snap_1");
    made.finishes = false;
    assert.equal(await made.delete("snap_0"), "unfinished");
    made.finishes = true;
    assert.equal(await made.delete("snap_0"), undefined);
    assert.equal(await made.anchor(), undefined);
    assert.deepEqual(made.deleted, ["/srv/snap_1", "/srv/snap_1"]);
  });

  it("is merged away with the next backup anywhere when what it was kept for was forgotten", async () => {
    const made = await withSnapshots([], [1]);
    await made.delete("snap_1");
    made.memory.put("snapshots", { ...made.snapshot("snap_0"), state: "Destroyed" });
    await made.add("snap_2", [2], "BackedUp", "store_2");
    assert.equal(await settlePrimary(made.services, made.snapshot("snap_2"), options), true);
    assert.equal(await made.anchor(), undefined);
  });

  it("makes room for the next one", async () => {
    const made = await withSnapshots([], [1]);
    await made.delete("snap_1");
    await made.add("snap_2", [2]);
    made.finishes = false;
    assert.equal(await made.delete("snap_2"), "unfinished");
  });
});
