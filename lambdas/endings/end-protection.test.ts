import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { ChainChanged, SnapshotInUse } from "../domain/errors.ts";
import type { SnapshotState } from "../domain/snapshot.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { transact } from "../tables/database.ts";
import { beginBackingUp, beginEndOfProtection, protectAgain } from "../tables/volumes.ts";
import { requestSnapshots } from "../transactions/create-snapshot.ts";
import { endProtections } from "./end-protection.ts";

const key = { tenant: "acme", id: "vol_1" };
const start = Date.parse("2026-01-01T00:00:00.000Z");

/** One volume with snapshots, and a hypervisor whose copies are layers of it. */
class Lab {
  readonly memory = new MemoryDatabase();
  readonly logged: string[] = [];
  /** What is on the host: copies with rows, and one whose row is lost. */
  readonly layers = new Set(["/srv/lost"]);
  now = start;
  /** How the next deletions end; those beyond the list finish. */
  readonly outcomes: (boolean | Error)[] = [];
  /** Runs while the hypervisor deletes. */
  meanwhile: () => Promise<unknown> = async () => undefined;

  constructor() {
    const hypervisor = { hypervisorId: "hyp_1", hypervisorTenant: "acme", externalId: "/srv/disk" };
    this.memory.put("volumes", { ...key, ...hypervisor, backingUp: 0, missing: false });
  }

  add(id: string, state: SnapshotState = "BackedUp"): this {
    const where = { hypervisorId: "hyp_1", hypervisorTenant: "acme", volumeId: key.id, volumeKey: "acme#vol_1" };
    const reference = { tenant: "acme", snapshotId: id, role: "Primary", storeId: "hyp_1", state: "Ready" };
    this.memory
      .put("snapshots", { tenant: "acme", id, ...where, storeId: "default", state, physicalBytes: 10 })
      .put("storeReferences", { ...reference, reference: `${id}#Primary#hyp_1`, installPath: `/srv/${id}` });
    this.layers.add(`/srv/${id}`);
    return this;
  }

  settle(id: string): void {
    this.memory.put("snapshots", { ...this.memory.get("snapshots", { tenant: "acme", id }), state: "BackedUp" });
  }

  get volume() {
    return this.memory.get("volumes", key) ?? assert.fail();
  }

  get at(): string {
    return new Date(this.now).toISOString();
  }

  begin(): Promise<boolean> {
    return beginEndOfProtection(this.memory.database, key);
  }

  protectAgain(): Promise<boolean> {
    return protectAgain(this.memory.database, key, this.at);
  }

  async requestSnapshot(): Promise<void> {
    const { database } = this.memory;
    const snapshot = { ...key, id: "snap_new", volumeId: key.id, storeId: "default", state: "Allocated" };
    const job = { ...key, id: "job_new", kind: "create-snapshot" };
    await transact(database, requestSnapshots(database, [{ snapshot, job } as never]));
  }

  async round() {
    const act = async (paths: readonly string[]) => {
      await this.meanwhile();
      const outcome = this.outcomes.shift() ?? true;
      if (outcome instanceof Error) throw outcome;
      if (outcome) for (const path of paths) this.layers.delete(path);
      return { finished: outcome };
    };
    const hypervisor = {
      capabilities: { quiesce: true, changeTracking: true, snapshotCopies: false },
      deleteSnapshot: (path: string) => act([path]),
      deleteAllSnapshots: () => act([...this.layers]),
    } as unknown as Hypervisor;
    const log = (message: string) => void this.logged.push(message);
    const services = {
      database: this.memory.database,
      hypervisor: async () => hypervisor,
      now: () => new Date(this.now),
      logger: { warn: log, error: log },
    } as unknown as Services;
    return endProtections(services, () => false);
  }
}

const ended = { ended: 1, waiting: 0, failed: 0 };
const waiting = { ended: 0, waiting: 1, failed: 0 };
const nothing = { ended: 0, waiting: 0, failed: 0 };

describe("a volume that is taken out of protection", () => {
  it("loses all copies on primary, the newest too, and those that no row names; then it is let go", async () => {
    const lab = new Lab().add("snap_1").add("snap_2");
    assert.equal(await lab.begin(), true);
    assert.deepEqual(await lab.round(), ended);
    assert.deepEqual([...lab.layers], []);
    assert.equal(lab.volume.protection, "ended");
    assert.equal(lab.volume.heldUntil, undefined);
    assert.equal(lab.memory.get("storeReferences", { tenant: "acme", reference: "snap_2#Primary#hyp_1" }), undefined);
    assert.deepEqual(await lab.round(), nothing);
  });

  it("that is protected is left alone", async () => {
    const lab = new Lab().add("snap_1");
    assert.deepEqual(await lab.round(), nothing);
    assert.equal(lab.layers.size, 2);
  });

  it("takes no snapshot from then on, until it is protected again", async () => {
    const lab = new Lab();
    await lab.begin();
    await assert.rejects(lab.requestSnapshot());
    await lab.round();
    await assert.rejects(lab.requestSnapshot());
    assert.equal(await lab.protectAgain(), true);
    await lab.requestSnapshot();
  });

  for (const state of ["Allocated", "Creating", "CreatedOnPrimary", "BackingUp", "Error", "Destroying"] as const)
    it(`waits for a snapshot that is ${state}, and nothing is touched until then`, async () => {
      const lab = new Lab().add("snap_1").add("snap_2", state);
      await lab.begin();
      assert.deepEqual(await lab.round(), waiting);
      assert.equal(lab.layers.has("/srv/snap_2") && lab.layers.has("/srv/lost"), true);
      lab.settle("snap_2");
      assert.deepEqual(await lab.round(), ended);
    });

  it("waits while a backup runs, and while somebody reads the chain", async () => {
    const lab = new Lab().add("snap_1");
    const { database } = lab.memory;
    await lab.begin();
    await transact(database, [beginBackingUp(database, key, lab.at)]);
    assert.deepEqual(await lab.round(), waiting);
    lab.memory.put("volumes", { ...lab.volume, backingUp: 0 });
    lab.outcomes.push(new SnapshotInUse("an export is open"));
    assert.deepEqual(await lab.round(), waiting);
    assert.equal(lab.volume.protectionError, undefined);
    assert.deepEqual(await lab.round(), ended);
  });

  it("goes on where a long merge was left, and is not protected again in its middle", async () => {
    const lab = new Lab().add("snap_1");
    await lab.begin();
    lab.outcomes.push(false);
    assert.deepEqual(await lab.round(), waiting);
    assert.equal(await lab.protectAgain(), false);
    lab.outcomes.push(true, false);
    assert.deepEqual(await lab.round(), waiting);
    assert.equal(await lab.protectAgain(), false);
    assert.deepEqual(await lab.round(), ended);
    assert.equal(await lab.protectAgain(), true);
  });

  it("can be protected again between two merges, and then keeps what came after", async () => {
    const lab = new Lab().add("snap_1");
    await lab.begin();
    lab.meanwhile = async () => {
      lab.meanwhile = async () => assert.equal(await lab.protectAgain(), false);
      // The worker that held the volume died; another may protect it once the hold has run out.
      lab.now += 2_000_000;
      assert.equal(await lab.protectAgain(), true);
      lab.add("snap_2", "Creating");
    };
    assert.deepEqual(await lab.round(), waiting);
    assert.deepEqual([...lab.layers], ["/srv/lost", "/srv/snap_2"]);
    assert.equal(lab.volume.protection, undefined);
  });

  it("tells what somebody has to mend, and forgets it when that is done", async () => {
    const lab = new Lab().add("snap_1");
    await lab.begin();
    lab.outcomes.push(new ChainChanged("others use it"));
    assert.deepEqual(await lab.round(), waiting);
    assert.deepEqual(lab.volume.protectionError, { name: "ChainChanged", message: "others use it" });
    assert.deepEqual(await lab.round(), ended);
    assert.equal(lab.volume.protectionError, undefined);
    assert.equal(lab.logged.length, 1);
  });

  it("that meets a bug fails the round, after the others", async () => {
    const lab = new Lab().add("snap_1");
    await lab.begin();
    lab.outcomes.push(new TypeError("a bug"));
    assert.deepEqual(await lab.round(), { ended: 0, waiting: 0, failed: 1 });
    assert.equal(lab.volume.protection, "ending");
  });
});
