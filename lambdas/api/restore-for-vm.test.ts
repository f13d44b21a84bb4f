/** Restores whose volumes become disks of VMs, from the request to the end of the job. */
import assert from "node:assert/strict";
import { beforeEach, describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { VmHypervisor } from "../../test/support/vm-hypervisor.ts";
import { HypervisorUnavailable, type SnapferryError } from "../domain/errors.ts";
import { type HypervisorRow, volumeIdFor } from "../domain/inventory.ts";
import { executionInput, type Job } from "../domain/job.ts";
import { parseSettings } from "../domain/settings.ts";
import { vmIdFor } from "../domain/vm.ts";
import { cancelJob } from "../endings/end-job.ts";
import type { Services } from "../services.ts";
import { restoreVolumeStates } from "../tasks/restore-volume.ts";
import { callState } from "../tasks/state-function.ts";
import type { ApiRequest } from "./api-handler.ts";
import { discover } from "./discovery.ts";
import type { Caller } from "./http.ts";
import type { operations } from "./operations.ts";
import { Problem } from "./problem.ts";
import { restoreBody } from "./request-schemas.ts";
import { restoreSnapshot } from "./snapshot-actions.ts";
import { parseBody } from "./validation.ts";

const kvm: HypervisorRow = {
  tenant: "acme",
  id: "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
  name: "kvm1",
  settings: { kind: "kvm", endpoint: "ssh://u@kvm1:22", hostKeys: [], secretId: "", uri: "qemu:///system" },
  tenantRules: [],
  createdAt: "2026-01-01T00:00:00.000Z",
};
const files: HypervisorRow = {
  ...kvm,
  id: "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEZ",
  settings: { kind: "file", directory: "/srv" },
};
const otherKvm: HypervisorRow = { ...kvm, id: "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WF0" };
const snapshotId = "snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY";
const webId = vmIdFor(kvm.id, "uuid-web");
const operator: Caller = { tenant: "acme", role: "operator" };
const start = Date.parse("2026-01-01T12:00:00.000Z");

type Target = Record<string, unknown>;

/** A KVM host with one VM, discovered, and a backed up snapshot of a VM that is gone; executions are run by hand. */
class Lab {
  readonly memory = new MemoryDatabase();
  readonly host = new VmHypervisor().addVm("web", ["web-root", "web-data"]);
  now = start;

  static async discovered(): Promise<Lab> {
    const lab = new Lab();
    for (const row of [kvm, files, otherKvm]) lab.memory.put("hypervisors", row);
    await discover(lab.services, kvm);
    lab.putSnapshot();
    const reference = `vm-definition#${snapshotId}`;
    lab.memory.put("storeReferences", { tenant: "acme", reference, definition: "old-web" });
    return lab;
  }

  putSnapshot(change: object = {}): void {
    const at = "2026-01-01T00:00:00.000Z";
    this.memory.put("snapshots", {
      ...{ tenant: "acme", id: snapshotId, volumeId: volumeIdFor(kvm.id, "gone"), hypervisorId: kvm.id },
      ...{ hypervisorTenant: "acme", storeId: "default", tags: {}, state: "BackedUp", updateCount: 4, lastChange: "" },
      ...{ jobId: "job_0", attempt: 1, maxAttempts: 3, onBackupFailure: "delete", logicalBytes: 1024 },
      ...{ createdAt: at, updatedAt: at, vmDefinition: { name: "old-web", target: "sda" } },
      ...change,
    });
  }

  get services(): Services {
    const store = new MemoryObjectStore();
    return {
      database: this.memory.database,
      executions: { start: async () => undefined, status: async () => "RUNNING", stop: async () => undefined },
      hypervisor: async () => this.host.adapter,
      settings: async () => parseSettings({}),
      keyService: async () => undefined,
      objectStore: async () => store,
      ownBucket: async () => store,
      logger: { info: () => undefined, warn: () => undefined, error: () => undefined },
      now: () => new Date(this.now),
    } as unknown as Services;
  }

  async request(target: Target, caller = operator): Promise<Job> {
    const request = {
      ...{
        caller,
        id: snapshotId,
        method: "POST",
        path: `/snapshots/${snapshotId}/restore`,
        idempotencyKey: undefined,
      },
      body: parseBody(restoreBody, { target: { hypervisorId: kvm.id, name: "disk.qcow2", ...target } }),
    };
    const { status, body } = await restoreSnapshot(
      this.services,
      request as ApiRequest<typeof operations.restoreSnapshot>,
    );
    assert.equal(status, 202);
    return this.job((body as { job: { id: string } }).job.id);
  }

  /** Answers the problem's status and the field that it names. */
  async refusal(target: Target, caller = operator): Promise<[number, string | undefined]> {
    const problem = await this.request(target, caller).then(
      () => assert.fail("it was not refused"),
      (error: unknown) => (error instanceof Problem ? error : assert.fail(error as Error)),
    );
    const [field] = problem.extras.errors ?? [];
    return [problem.status, field && "pointer" in field ? field.pointer : undefined];
  }

  job(id: string): Job {
    const row = this.memory.get("jobs", { tenant: "acme", id }) ?? assert.fail(`${id} is gone`);
    return { ...row, open: row.openKind !== undefined } as unknown as Job;
  }

  volume(id: string) {
    return this.memory.get("volumes", { tenant: "acme", id });
  }

  vm(id: string) {
    return this.memory.get("vms", { tenant: "acme", id });
  }

  disks(vmId: string): object[] {
    return (this.vm(vmId)?.disks ?? []) as object[];
  }

  state(job: Job, name: string, input: object = {}): Promise<unknown> {
    const event = { job: executionInput(job), ...input };
    return callState(restoreVolumeStates, name, this.services, event, { until: () => false });
  }

  /** The states up to the complete volume; the bytes are somebody else's concern. */
  async publish(job: Job): Promise<Record<string, unknown>> {
    const plan = { sizeBytes: 1024 };
    await this.state(job, "Begin");
    await this.state(job, "CreateVolume", { plan });
    return (await this.state(job, "Publish", { plan })) as Record<string, unknown>;
  }

  /** Runs the execution as `restore-volume.asl.json` does, without retries. */
  async execute(job: Job): Promise<Job> {
    try {
      const volume = await this.publish(job);
      if (volume.forVm) await this.state(job, "GiveToVm", { volume });
      await this.state(job, "Complete", { volume });
    } catch (error) {
      const { name, message } = error as Error;
      await this.state(job, "Abandon", { error: { Error: name, Cause: JSON.stringify({ errorMessage: message }) } });
    }
    return this.job(job.id);
  }
}

let lab: Lab;
beforeEach(async () => {
  lab = await Lab.discovered();
});

describe("a restore to a storage pool", () => {
  it("makes the volume there, under the id that a discovery gives it", async () => {
    const job = await lab.execute(await lab.request({ pool: "fast" }));
    assert.equal(job.state, "Succeeded");
    const volumeId = volumeIdFor(kvm.id, "/fast/disk.qcow2");
    assert.deepEqual([job.target?.pool, job.target?.volumeId], ["fast", volumeId]);
    const { added } = (await discover(lab.services, kvm)) ?? assert.fail();
    assert.equal(added, 0);
    assert.equal(lab.volume(volumeId)?.missing, false);
  });

  it("may have the name that a volume of another pool gets at the same time, and no other of its own", async () => {
    await lab.request({ pool: "fast" });
    await lab.request({ pool: "slow" });
    await lab.request({});
    assert.deepEqual(await lab.refusal({ pool: "fast" }), [409, undefined]);
  });

  it("is refused under the name of a snapshot's file, where these lie beside volumes, and under no file's name", async () => {
    const name = "web.qcow2.snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY.qcow2";
    assert.deepEqual(await lab.refusal({ name }), [400, "/target/name"]);
    await lab.request({ hypervisorId: files.id, name });
    for (const one of ["a\nb", "a\u0085", "a/b", ".a", "", "ä".repeat(128)])
      assert.deepEqual(await lab.refusal({ name: one }), [400, "/target/name"], one);
    await lab.request({ name: "ä".repeat(127) });
  });

  it("is refused where there are no pools", async () => {
    assert.deepEqual(await lab.refusal({ hypervisorId: files.id, pool: "fast" }), [400, "/target/pool"]);
  });
});

describe("a restore to a VM that is there", () => {
  it("makes the volume its disk; the rows are as a discovery makes them", async () => {
    const job = await lab.execute(await lab.request({ attachToVmId: webId }));
    assert.equal(job.state, "Succeeded", JSON.stringify(job.error));
    const volumeId = volumeIdFor(kvm.id, "/default/disk.qcow2");
    assert.deepEqual([job.target?.vmId, job.target?.volumeId], [webId, volumeId]);
    const rows = structuredClone([lab.vm(webId), lab.volume(volumeId)]);
    assert.deepEqual(lab.disks(webId)[2], { target: "vdc", volumeId, tenant: "acme", root: false });
    const { inUse, unsupported } = lab.volume(volumeId) ?? assert.fail("its row is gone");
    assert.deepEqual([inUse, unsupported], [true, undefined]);
    await discover(lab.services, kvm);
    assert.deepEqual([lab.vm(webId), lab.volume(volumeId)], rows);
  });

  it("is done once, however often its state runs", async () => {
    const job = await lab.request({ attachToVmId: webId });
    const volume = await lab.publish(job);
    for (let time = 0; time < 3; time++) await lab.state(job, "GiveToVm", { volume });
    for (let time = 0; time < 2; time++) await lab.state(job, "Complete", { volume });
    assert.equal(lab.job(job.id).state, "Succeeded");
    assert.equal(lab.disks(webId).length, 3);
  });

  it("waits while something else is done to the VM, and leaves that alone", async () => {
    const job = await lab.request({ attachToVmId: webId });
    const volume = await lab.publish(job);
    const heldUntil = new Date(start + 30_000).toISOString();
    lab.memory.put("vms", { ...lab.vm(webId), heldFor: "op_1", heldUntil });
    await assert.rejects(
      lab.state(job, "GiveToVm", { volume }),
      (error: SnapferryError) => error.name === "VmBusy" && error.retryable,
    );
    assert.deepEqual([lab.vm(webId)?.heldFor, lab.host.done], ["op_1", []]);
    lab.now += 31_000;
    await lab.state(job, "GiveToVm", { volume });
    assert.equal(lab.host.done.length, 1);
  });

  it("lets go of the VM when the host cannot be reached, so that another try may follow at once", async () => {
    const job = await lab.request({ attachToVmId: webId });
    const volume = await lab.publish(job);
    lab.host.meanwhile = async () => {
      throw new HypervisorUnavailable("gone");
    };
    await assert.rejects(lab.state(job, "GiveToVm", { volume }), HypervisorUnavailable);
    lab.host.meanwhile = async () => {};
    await lab.state(job, "GiveToVm", { volume });
    assert.equal(lab.host.done.length, 1);
  });

  it("that is gone by then fails, says so, and the volume stays", async () => {
    const requested = await lab.request({ attachToVmId: webId });
    lab.memory.put("vms", { ...lab.vm(webId), missing: true });
    const job = await lab.execute(requested);
    const volumeId = volumeIdFor(kvm.id, "/default/disk.qcow2");
    assert.deepEqual([job.state, job.open, job.error?.name], ["Failed", false, "VmNotFound"]);
    assert.match(job.error?.message ?? "", new RegExp(`^The volume ${volumeId} is restored and stays`));
    assert.equal(job.target?.volumeId, volumeId);
    const { restoringJobId, missing } = lab.volume(volumeId) ?? assert.fail("its row is gone");
    assert.deepEqual([restoringJobId, missing], [undefined, false]);
    assert.ok(lab.host.volumes.some(({ externalId }) => externalId === "/default/disk.qcow2"));
    assert.equal(lab.memory.get("snapshots", { tenant: "acme", id: snapshotId })?.readers, undefined);
  });

  it("that was cancelled meanwhile attaches nothing", async () => {
    const job = await lab.request({ attachToVmId: webId });
    const volume = await lab.publish(job);
    await cancelJob(lab.services, "acme", job.id);
    await assert.rejects(lab.state(job, "GiveToVm", { volume }), { name: "StateConflict" });
    assert.deepEqual(lab.host.done, []);
  });

  it("is refused where that VM cannot be attached to", async () => {
    const where = "/target/attachToVmId";
    const unknown = vmIdFor(kvm.id, "uuid-none");
    assert.deepEqual(await lab.refusal({ attachToVmId: unknown }), [404, where]);
    assert.deepEqual(await lab.refusal({ attachToVmId: webId, hypervisorId: otherKvm.id }), [400, where]);
    assert.deepEqual(await lab.refusal({ attachToVmId: webId, hypervisorId: files.id }), [400, where]);
    const foreign = vmIdFor(kvm.id, "uuid-foreign");
    lab.memory.put("vms", { ...lab.vm(webId), tenant: "bolt", id: foreign });
    assert.deepEqual(await lab.refusal({ attachToVmId: foreign }), [404, where]);
    const nobodys = vmIdFor(kvm.id, "uuid-nobody");
    lab.memory.put("vms", { ...lab.vm(webId), id: nobodys, unassigned: true });
    assert.deepEqual(await lab.refusal({ attachToVmId: nobodys }), [404, where]);
    lab.memory.put("vms", { ...lab.vm(webId), heldFor: "op_1", heldUntil: new Date(start + 1).toISOString() });
    assert.deepEqual(await lab.refusal({ attachToVmId: webId }), [409, undefined]);
    lab.memory.put("vms", { ...lab.vm(webId), missing: true });
    assert.deepEqual(await lab.refusal({ attachToVmId: webId }), [409, undefined]);
    assert.equal(lab.memory.get("snapshots", { tenant: "acme", id: snapshotId })?.readers, undefined);
  });
});

describe("a restore to a new VM", () => {
  const newVm = { name: "web-2" };

  it("makes it of what is saved with the snapshot, with the volume as the disk that it was", async () => {
    const job = await lab.execute(await lab.request({ newVm }));
    assert.equal(job.state, "Succeeded", JSON.stringify(job.error));
    const vmId = vmIdFor(kvm.id, "uuid-web-2-of-old-web");
    assert.equal(job.target?.vmId, vmId);
    const { tenant, name, state, disks } = lab.vm(vmId) ?? assert.fail("it has no row");
    const volumeId = job.target?.volumeId;
    assert.deepEqual([tenant, name, state], ["acme", "web-2", "stopped"]);
    assert.deepEqual(disks, [{ target: "sda", volumeId, tenant: "acme", root: true }]);
    const { vms } = (await discover(lab.services, kvm)) ?? assert.fail();
    assert.equal(vms?.added, 0);
  });

  it("is done once, however often its state runs", async () => {
    const job = await lab.request({ newVm });
    const volume = await lab.publish(job);
    for (let time = 0; time < 3; time++) await lab.state(job, "GiveToVm", { volume });
    assert.deepEqual(
      lab.host.vms.map(({ name }) => name),
      ["web", "web-2"],
    );
  });

  it("on a host that is not the one that the snapshot was taken on", async () => {
    const job = await lab.execute(await lab.request({ newVm, hypervisorId: otherKvm.id }));
    assert.equal(job.target?.vmId, vmIdFor(otherKvm.id, "uuid-web-2-of-old-web"));
  });

  it("whose name somebody took meanwhile fails, says so, and the volume stays", async () => {
    const requested = await lab.request({ newVm });
    lab.host.addVm("web-2", []);
    const job = await lab.execute(requested);
    assert.deepEqual([job.state, job.error?.name], ["Failed", "OperationRefused"]);
    assert.match(job.error?.message ?? "", /restored and stays; .* There is a VM web-2 already\.$/);
    assert.equal(lab.volume(job.target?.volumeId ?? "")?.restoringJobId, undefined);
  });

  it("is refused where it cannot be made", async () => {
    assert.deepEqual(await lab.refusal({ newVm: { name: "web" } }), [409, "/target/newVm/name"]);
    assert.deepEqual(await lab.refusal({ newVm, hypervisorId: files.id }), [400, "/target/newVm"]);
    assert.deepEqual(await lab.refusal({ newVm, attachToVmId: webId }), [400, "/target/newVm"]);
    lab.memory.put("hypervisors", { ...kvm, tenantRules: [{ pattern: "web-*", tenant: "bolt" }] });
    assert.deepEqual(await lab.refusal({ newVm }), [409, "/target/newVm/name"]);
    lab.memory.put("hypervisors", kvm);
    lab.putSnapshot({ vmDefinition: undefined });
    assert.deepEqual(await lab.refusal({ newVm }), [400, "/target/newVm"]);
    assert.equal(lab.host.unfinished.size, 0);
  });
});

describe("names on the host", () => {
  it("hold no slash and no control character, are not empty and not too long", async () => {
    const wrong = ["", "a/b", "../a", "a\0b", "a\nb", "\x7f", "x".repeat(256), "ä".repeat(121), "\ud800", 7, null, {}];
    for (const name of wrong) {
      assert.deepEqual(await lab.refusal({ pool: name }), [400, "/target/pool"], String(name));
      assert.deepEqual(await lab.refusal({ newVm: { name } }), [400, "/target/newVm/name"], String(name));
    }
    for (const name of ["x".repeat(240), "ä".repeat(120), "a b", "..", "<&>'\""]) await lab.request({ pool: name });
    assert.deepEqual(await lab.refusal({ newVm: {} }), [400, "/target/newVm/name"]);
    assert.deepEqual(await lab.refusal({ newVm: "web-2" }), [400, "/target/newVm"]);
    assert.deepEqual(await lab.refusal({ newVm: { name: "a", cpus: 2 } }), [400, "/target/newVm/cpus"]);
    assert.deepEqual(await lab.refusal({ attachToVmId: "vm_1" }), [400, "/target/attachToVmId"]);
  });
});
