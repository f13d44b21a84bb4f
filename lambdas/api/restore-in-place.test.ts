import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { VmHypervisor } from "../../test/support/vm-hypervisor.ts";
import { StateConflict } from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import { type HypervisorRow, volumeIdFor } from "../domain/inventory.ts";
import type { Job } from "../domain/job.ts";
import { parseSettings } from "../domain/settings.ts";
import type { SnapshotState } from "../domain/snapshot.ts";
import { vmIdFor } from "../domain/vm.ts";
import { cleanUpAfter } from "../endings/clean-up.ts";
import type { NewVolume } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import type { TransactionItem } from "../tables/database.ts";
import { getJob } from "../tables/jobs.ts";
import { restoreVolumeStates } from "../tasks/restore-volume.ts";
import { callState } from "../tasks/state-function.ts";
import { beginRestore, restored, restoreFailed } from "../transactions/restore-volume.ts";
import type { Caller } from "./http.ts";
import { Problem } from "./problem.ts";
import { createSnapshotBody, operateVmBody, restoreBody } from "./request-schemas.ts";
import type { JobRepresentation, VmOperationsRepresentation, VolumeRepresentation } from "./response-schemas.ts";
import { restoreSnapshot } from "./snapshot-actions.ts";
import { createSnapshot } from "./snapshots.ts";
import { parseBody } from "./validation.ts";
import { discoverVms } from "./vms-discovery.ts";
import { listVmOperations, operateVm } from "./vms-operations.ts";

const hypervisor: HypervisorRow = {
  tenant: "acme",
  id: "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
  name: "lab",
  settings: { kind: "file", directory: "/srv" },
  tenantRules: [],
  createdAt: "2026-01-01T00:00:00.000Z",
};
const [root, data] = ["web-root", "web-data"].map((name) => volumeIdFor(hypervisor.id, name)) as [string, string];
const vmId = vmIdFor(hypervisor.id, "uuid-web");
const admin: Caller = { tenant: "acme", role: "admin" };
const snapshotId = newId("snapshot");
const start = Date.parse("2026-01-01T12:00:00.000Z");

/** A stopped VM with two disks, discovered; of the second there is a snapshot that is backed up. */
class Lab {
  readonly memory = new MemoryDatabase();
  readonly host = new VmHypervisor().addVm("web", ["web-root", "web-data"]);
  readonly started: string[] = [];
  /** What was asked of the hypervisor about volumes under construction. */
  readonly asked: { what: string; volume: NewVolume }[] = [];
  now = start;
  /** Runs once, before the next transaction. */
  beforeWriting: (() => Promise<unknown>) | undefined;

  static async discovered(state: "stopped" | "running" | "paused" = "stopped", ofVm = "acme"): Promise<Lab> {
    const lab = new Lab();
    lab.host.vms = lab.host.vms.map((vm) => ({ ...vm, state }));
    lab.memory.put("hypervisors", hypervisor);
    const where = { hypervisorId: hypervisor.id, hypervisorTenant: "acme" };
    const now = { sizeBytes: 2048, backingUp: 0, inUse: false, unassigned: false, missing: false, discoveredAt: "" };
    for (const [id, externalId] of [
      [root, "web-root"],
      [data, "web-data"],
    ])
      lab.memory.put("volumes", { tenant: "acme", id, ...where, externalId, name: externalId, ...now });
    lab.addSnapshot(snapshotId, "BackedUp");
    const tenants = new Map([root, data].map((id) => [id, "acme"]));
    await discoverVms(lab.services, hypervisor, lab.host.adapter, tenants, "2026-01-01T00:00:00.000Z");
    if (ofVm !== "acme")
      lab.memory.put("vms", { ...lab.memory.get("vms", { tenant: "acme", id: vmId }), tenant: ofVm });
    if (ofVm !== "acme") lab.memory.put("vms", { tenant: "acme", id: vmId, disks: [], missing: true });
    return lab;
  }

  addSnapshot(id: string, state: SnapshotState, isOnPrimary = false): void {
    const where = { hypervisorId: hypervisor.id, hypervisorTenant: "acme", volumeId: data, volumeKey: `acme#${data}` };
    const job = { jobId: "job_0", attempt: 1, maxAttempts: 3, tags: {}, createdAt: "", updatedAt: "" };
    this.memory.put("snapshots", { tenant: "acme", id, ...where, ...job, state, storeId: "default", updateCount: 3 });
    const reference = `${id}#Primary#${hypervisor.id}`;
    if (isOnPrimary) this.memory.put("storeReferences", { tenant: "acme", reference, snapshotId: id });
  }

  volume(changes: object = {}) {
    const row = this.memory.get("volumes", { tenant: "acme", id: data }) ?? assert.fail();
    this.memory.put("volumes", { ...row, ...changes });
    return { ...row, ...changes } as Record<string, unknown>;
  }

  get services(): Services {
    const { database } = this.memory;
    const send = async (command: { input: { TransactItems?: TransactionItem[] } }) => {
      const before = this.beforeWriting;
      if (before && command.input.TransactItems) {
        this.beforeWriting = undefined;
        await before();
      }
      return database.client.send(command as never);
    };
    const record = (what: string) => async (volume: NewVolume) => void this.asked.push({ what, volume });
    const settings = parseSettings({});
    const adapter = Object.assign(this.host.adapter, {
      discardVolume: record("discard"),
      forgetReplaced: record("forget"),
    });
    return {
      database: { ...database, client: { send } },
      hypervisor: async () => adapter,
      settings: async () => settings,
      executions: { start: async ({ id }: Job) => void this.started.push(id) },
      logger: { info: () => undefined, warn: () => undefined },
      objectStore: async () => ({ deleteEveryVersionBelow: async () => undefined }),
      ownBucket: async () => ({ deleteEveryVersion: async () => undefined }),
      keyService: async () => undefined,
      now: () => new Date(this.now),
    } as unknown as Services;
  }

  async restore(caller = admin): Promise<{ job: JobRepresentation; volume: VolumeRepresentation }> {
    const body = restoreBody.parse({ target: { inPlace: true } });
    const request = { caller, id: snapshotId, body, method: "POST", path: "", idempotencyKey: undefined };
    const { status, body: answer } = await restoreSnapshot(this.services, request as never);
    assert.equal(status, 202);
    return answer as never;
  }

  async operate(body: object) {
    const request = { caller: admin, id: vmId, body: operateVmBody.parse(body), method: "POST", path: "" };
    return operateVm(this.services, { ...request, idempotencyKey: undefined } as never);
  }

  async job(id: string): Promise<Job> {
    return (await getJob(this.memory.database, "acme", id)) ?? assert.fail();
  }
}

async function refusalOf(asking: Promise<unknown>): Promise<Problem> {
  const error = await asking.then(
    () => assert.fail("it was not refused"),
    (reason: unknown) => reason,
  );
  return error instanceof Problem ? error : assert.fail(String(error));
}

describe("a restore in place", () => {
  it("makes the volume the job's own and starts it", async () => {
    const lab = await Lab.discovered();
    const { job, volume } = await lab.restore();
    assert.deepEqual(job.target, { hypervisorId: hypervisor.id, name: "web-data", volumeId: data });
    assert.deepEqual([volume.id, volume.status, volume.restoringJobId], [data, "restoring", job.id]);
    assert.equal(lab.volume().restoringJobId, job.id);
    assert.equal((await lab.job(job.id)).target?.replaces, "web-data");
    assert.deepEqual(lab.started, [job.id]);
    const row = lab.memory.get("snapshots", { tenant: "acme", id: snapshotId });
    assert.deepEqual(row?.readers, new Set([job.id]));
  });

  for (const state of ["running", "paused"] as const)
    it(`is refused while the VM is ${state}, and says which`, async () => {
      const lab = await Lab.discovered(state);
      const { kind, status, message, extras } = await refusalOf(lab.restore());
      assert.deepEqual([kind, status], ["vm-is-running", 409]);
      assert.match(message, new RegExp(`is a disk of ${vmId} \\(web\\) that is not stopped but ${state}`));
      assert.deepEqual(extras.members, { volumeId: data, vmId });
    });

  it("of a VM that was asked to stop is for the job to judge, which looks at it first", async () => {
    const lab = await Lab.discovered("running");
    lab.host.guestsObey = false;
    await lab.operate({ operation: "stop" });
    const { job } = await lab.restore();
    await beginRestore(lab.memory.database, { tenant: "acme", id: job.id }, "");
    const clear = () =>
      callState(
        restoreVolumeStates,
        "ClearPrimary",
        lab.services,
        { job: { tenant: "acme", jobId: job.id, snapshotId } },
        { until: () => false },
      );
    await assert.rejects(clear(), { name: "OperationRefused", message: /is in use: its VM is not stopped/ });
    lab.host.setState("uuid-web", "stopped");
    assert.deepEqual(await clear(), { finished: true });
  });

  it("does not tell of another tenant's VM", async () => {
    const lab = await Lab.discovered("running", "globex");
    const { kind, message, extras } = await refusalOf(lab.restore());
    assert.equal(kind, "vm-is-running");
    assert.doesNotMatch(message, /vm_|web\)/);
    assert.deepEqual(extras.members, { volumeId: data });
  });

  it("is refused while snapshots have no backup, and names them", async () => {
    const lab = await Lab.discovered();
    lab.addSnapshot("snap_2", "CreatedOnPrimary", true);
    lab.addSnapshot("snap_3", "BackedUp", true);
    const { kind, extras } = await refusalOf(lab.restore());
    assert.equal(kind, "snapshot-is-not-backed-up");
    assert.deepEqual(extras.members, { volumeId: data, snapshots: ["snap_2"] });
  });

  for (const [why, changes, kind] of [
    ["missing", { missing: true }, "volume-is-missing"],
    ["being restored already", { restoringJobId: "job_9" }, "volume-is-restoring"],
  ] as const)
    it(`is refused while the volume is ${why}`, async () => {
      const lab = await Lab.discovered();
      lab.volume(changes);
      assert.equal((await refusalOf(lab.restore())).kind, kind);
    });

  it("of a snapshot that has no backup, or that is another tenant's, is refused", async () => {
    const lab = await Lab.discovered();
    assert.equal((await refusalOf(lab.restore({ tenant: "globex", role: "admin" }))).status, 404);
    lab.addSnapshot(snapshotId, "Error");
    assert.equal((await refusalOf(lab.restore())).kind, "snapshot-is-not-backed-up");
  });

  it("of a volume that is gone from the books is a 404", async () => {
    const lab = await Lab.discovered();
    lab.volume({ unassigned: true });
    assert.equal((await refusalOf(lab.restore({ ...admin, role: "operator" }))).status, 404);
  });

  it("waits for who holds the volume or a VM", async () => {
    const until = new Date(start + 1000).toISOString();
    const lab = await Lab.discovered();
    lab.volume({ heldFor: "a merge", heldUntil: until });
    await assert.rejects(lab.restore(), StateConflict);
    assert.equal(lab.volume().restoringJobId, undefined);
    lab.now += 2000;
    await lab.restore();
  });

  it("and a start of the VM at the same moment: whichever is first, the other is refused", async () => {
    for (const operation of [{ operation: "start" }, { operation: "detach-disk", volumeId: data }]) {
      const first = await Lab.discovered();
      first.beforeWriting = () => first.restore();
      const refused = await refusalOf(first.operate(operation));
      assert.equal(refused.kind, "volume-is-restoring");
      assert.deepEqual(first.host.done, []);
    }

    const second = await Lab.discovered();
    second.beforeWriting = () => second.operate({ operation: "start" });
    assert.equal((await refusalOf(second.restore())).kind, "vm-is-running");
    assert.equal(second.volume().restoringJobId, undefined);
  });

  it("keeps its VM from being started, its disk from being taken away, and snapshots from being requested", async () => {
    const lab = await Lab.discovered();
    const { job } = await lab.restore();
    const answer = await listVmOperations(lab.services, { caller: admin, id: vmId } as never);
    const { operations } = answer.body as VmOperationsRepresentation;
    const refused = operations.filter(({ allowed }) => !allowed);
    assert.deepEqual(
      refused.map(({ operation, volumeId }) => [operation, volumeId]),
      [
        ["start", undefined],
        ["reboot", undefined],
        ["detach-disk", data],
      ],
    );
    for (const { reason, jobs } of refused.filter(({ operation }) => operation !== "reboot")) {
      assert.match(reason ?? "", /restored in place\. vdb \(vol_\w+\) is being restored\. Wait for it/);
      assert.deepEqual(jobs, [job.id]);
    }
    assert.equal((await refusalOf(lab.operate({ operation: "start" }))).kind, "volume-is-restoring");
    const body = createSnapshotBody.parse({});
    const request = { caller: admin, id: data, body, method: "POST", path: "", idempotencyKey: undefined };
    assert.equal((await refusalOf(createSnapshot(lab.services, request as never))).kind, "volume-is-restoring");
  });

  it("that has succeeded changes the volume's size, and lets go when what was replaced is gone", async () => {
    const lab = await Lab.discovered();
    const { job } = await lab.restore();
    const key = { tenant: "acme", id: job.id };
    await beginRestore(lab.memory.database, key, "");
    const volume = { externalId: "web-data", name: "web-data", sizeBytes: 1024 };
    await restored(lab.memory.database, key, volume, { now: "2026-01-01T12:01:00.000Z" });
    assert.deepEqual([lab.volume().sizeBytes, lab.volume().restoringJobId], [1024, job.id]);
    assert.equal((await lab.job(job.id)).state, "Succeeded");
    assert.equal(await cleanUpAfter(lab.services, await lab.job(job.id), () => false), true);
    assert.deepEqual(
      lab.asked.map(({ what, volume: { replaces, restoreId } }) => [what, replaces, restoreId]),
      [["forget", "web-data", job.id]],
    );
    assert.equal(lab.volume().restoringJobId, undefined);
    await lab.operate({ operation: "start" });
  });

  it("that has failed leaves the volume in the books, and lets go when what it held is back", async () => {
    const lab = await Lab.discovered();
    const { job } = await lab.restore();
    const failure = { error: { name: "StoreUnavailable", message: "gone" }, cancelled: false };
    await restoreFailed(lab.memory.database, { tenant: "acme", id: job.id }, failure, "2026-01-01T12:01:00.000Z");
    assert.equal(lab.volume().restoringJobId, job.id);
    await cleanUpAfter(lab.services, await lab.job(job.id), () => false);
    assert.deepEqual(
      lab.asked.map(({ what, volume }) => [what, volume.replaces]),
      [["discard", "web-data"]],
    );
    assert.deepEqual([lab.volume().restoringJobId, lab.volume().sizeBytes], [undefined, 2048]);
  });

  it("is asked for alone", () => {
    const wrong = (target: object, more: object = {}) => {
      try {
        parseBody(restoreBody, { target, ...more });
        return "";
      } catch (error) {
        const [first] = (error as Problem).extras.errors ?? [];
        return first && "pointer" in first ? `${first.pointer} ${first.detail}` : String(error);
      }
    };
    assert.equal(wrong({ inPlace: true }), "");
    assert.match(wrong({ inPlace: true, name: "x" }), /^\/target\/name must not be given with inPlace/);
    assert.equal(wrong({ name: "x" }), "/target/hypervisorId is missing");
    assert.match(wrong({ inPlace: true }, { salvage: true }), /^\/salvage must not be true with inPlace/);
    assert.equal(wrong({ inPlace: true }, { salvage: false }), "");
    assert.match(wrong({ inPlace: false }), /^\/target\/inPlace must be true/);
  });
});
