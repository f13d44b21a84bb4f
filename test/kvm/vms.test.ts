/** What the API does with VMs, on a host with libvirt and QEMU: found, frozen at one moment, and nothing left where that fails. */
import assert from "node:assert/strict";
import { after, afterEach, beforeEach, describe, it } from "node:test";
import type { ApiRequest } from "../../lambdas/api/api-handler.ts";
import { discover } from "../../lambdas/api/discovery.ts";
import type { operations } from "../../lambdas/api/operations.ts";
import { createVmSnapshotBody, operateVmBody } from "../../lambdas/api/request-schemas.ts";
import type { SnapshotRepresentation, VmRepresentation } from "../../lambdas/api/response-schemas.ts";
import { readVm } from "../../lambdas/api/vms.ts";
import { operateVm } from "../../lambdas/api/vms-operations.ts";
import { createVmSnapshot } from "../../lambdas/api/vms-snapshots.ts";
import { type HypervisorRow, volumeIdFor } from "../../lambdas/domain/inventory.ts";
import { executionInput, type Job } from "../../lambdas/domain/job.ts";
import { parseSettings } from "../../lambdas/domain/settings.ts";
import { vmIdFor } from "../../lambdas/domain/vm.ts";
import type { Domain } from "../../lambdas/protocols/libvirt/procedures.ts";
import type { Services } from "../../lambdas/services.ts";
import { createSnapshotStates } from "../../lambdas/tasks/create-snapshot.ts";
import { callState } from "../../lambdas/tasks/state-function.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { MemoryDatabase } from "../support/memory-database.ts";
import { AdapterHost, type KvmSubject } from "./adapter-host.ts";

const MiB = 2 ** 20;
const host = await AdapterHost.start();
after(() => host[Symbol.asyncDispose]());

const hypervisor: HypervisorRow = {
  tenant: "acme",
  id: "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
  name: "host",
  settings: { kind: "file", directory: "/" },
  tenantRules: [],
  createdAt: "2026-01-01T00:00:00.000Z",
};

describe("a VM on a KVM host", () => {
  let subject: KvmSubject;
  let memory: MemoryDatabase;
  let services: Services;
  let domain: Domain;
  let disks: string[];
  let vmId: string;

  beforeEach(async () => {
    subject = await host.makeSubject();
    disks = ["web-root", "web-data"].map((name) => subject.image(`${name}.qcow2`));
    for (const path of disks) run("qemu-img", "create", "-q", "-f", "qcow2", path, `${4 * MiB}`);
    domain = await subject.define(
      "web",
      disks.map((path, index) => ({ target: index === 0 ? "vda" : "vdb", path, format: "qcow2" })),
    );
    await subject.start(domain);
    memory = new MemoryDatabase().put("hypervisors", hypervisor);
    services = {
      database: memory.database,
      executions: { start: async () => {}, status: async () => "RUNNING", stop: async () => {} },
      hypervisor: async () => subject.hypervisor,
      settings: async () => parseSettings({}),
      logger: { info: () => undefined, warn: () => undefined },
      now: () => new Date(),
    } as unknown as Services;
    const found = await discover(services, hypervisor);
    assert.deepEqual(found?.vms, { found: 1, added: 1, missing: 0 });
    for await (const { externalId } of subject.hypervisor.listVms()) vmId = vmIdFor(hypervisor.id, externalId);
  });
  afterEach(() => subject[Symbol.asyncDispose]());

  async function vm(): Promise<VmRepresentation> {
    const request = { caller: { tenant: "acme", role: "reader" }, id: vmId } as ApiRequest<typeof operations.getVm>;
    return (await readVm(services, request)).body as VmRepresentation;
  }

  async function requested(): Promise<readonly SnapshotRepresentation[]> {
    const body = createVmSnapshotBody.parse({ asyncBackup: true });
    const request = { caller: { tenant: "acme", role: "operator" }, id: vmId, body, method: "POST", path: "" };
    const answer = await createVmSnapshot(services, request as ApiRequest<typeof operations.createVmSnapshot>);
    return (answer.body as { snapshots: SnapshotRepresentation[] }).snapshots;
  }

  const row = (id: string) => memory.get("snapshots", { tenant: "acme", id });

  /** Runs the states as the workflow does. */
  async function execute([first]: readonly SnapshotRepresentation[], beforeTake = async () => {}) {
    const job = executionInput(memory.get("jobs", { tenant: "acme", id: first?.job.id }) as unknown as Job);
    const state = (name: string, input: object = {}) =>
      callState(createSnapshotStates, name, services, { job, ...input }, { until: () => false });
    try {
      await state("Begin");
      await beforeTake();
      await state("Complete", { frozen: await state("Take") });
    } catch (error) {
      const { name, message } = error as Error;
      await state("Fail", { error: { Error: name, Cause: JSON.stringify({ errorMessage: message }) } });
    }
  }

  const files = async () => (await subject.definition(domain)).disks.map(({ file }) => file);

  it("is found with its disks, whose volumes can be backed up, and its root disk is the first", async () => {
    const { name, state, disks: found } = await vm();
    assert.deepEqual([name, state], ["web", "running"]);
    assert.deepEqual(
      found.map(({ target, root, volumeId }) => [target, root, volumeId]),
      disks.map((path, index) => [index === 0 ? "vda" : "vdb", index === 0, volumeIdFor(hypervisor.id, path)]),
    );
  });

  it("has all its disks frozen by one execution, and goes on on top of them", async () => {
    const snapshots = await requested();
    await execute(snapshots);
    for (const { id, volumeId } of snapshots) {
      assert.deepEqual([row(id)?.state, row(id)?.consistency], ["CreatedOnPrimary", "crash"]);
      assert.equal(row(id)?.volumeId, volumeId);
    }
    const now = await files();
    assert.equal(await subject.countSnapshots(), 2);
    assert.ok(now.every((file, index) => file !== disks[index]));
    const again = await discover(services, hypervisor);
    assert.deepEqual([again?.added, again?.missing, again?.vms?.added], [0, 0, 0]);
  });

  it("of which one disk cannot be frozen has none frozen, and all snapshots are in Error", async () => {
    const snapshots = await requested();
    await execute(snapshots, async () => {
      const data = snapshots[1]?.volumeId;
      const volume = memory.get("volumes", { tenant: "acme", id: data });
      memory.put("volumes", { ...volume, externalId: subject.image("gone.qcow2") });
    });
    for (const { id } of snapshots) {
      const { state, error } = row(id) ?? {};
      assert.deepEqual([state, (error as Error).name], ["Error", "VolumeNotFound"]);
    }
    assert.deepEqual(await files(), disks);
    assert.equal(await subject.countSnapshots(), 0);
  });

  it("that a worker froze and died over is as it was before, and all snapshots are in Error", async () => {
    const snapshots = await requested();
    const { takeSnapshots } = subject.hypervisor;
    subject.hypervisor.takeSnapshots = async (...request) => {
      await takeSnapshots.apply(subject.hypervisor, request);
      throw new Error("the worker died");
    };
    await execute(snapshots);
    for (const { id } of snapshots) assert.equal(row(id)?.state, "Error");
    assert.deepEqual(await files(), disks);
    assert.equal(await subject.countSnapshots(), 0);
  });

  describe("operated through the API", () => {
    async function operate(body: object): Promise<VmRepresentation> {
      const caller = { tenant: "acme", role: "admin" };
      const request = { caller, id: vmId, body: operateVmBody.parse(body), method: "POST", path: "" };
      const answer = await operateVm(services, request as ApiRequest<typeof operations.operateVm>);
      return answer.body as VmRepresentation;
    }

    const volume = (path: string) => ({ tenant: "acme", id: volumeIdFor(hypervisor.id, path) });

    it("is ended and started again, and the answers say how it is then", async () => {
      assert.equal((await operate({ operation: "destroy" })).state, "stopped");
      assert.equal((await operate({ operation: "start" })).state, "running");
    });

    it("loses a disk and gets it back with its volume", async () => {
      await operate({ operation: "destroy" });
      const { id: volumeId } = volume(disks[1] ?? "");
      const targets = ({ disks: shown }: VmRepresentation) => shown.map(({ target, volumeId: id }) => [target, id]);
      const before = targets(await vm());
      assert.deepEqual(targets(await operate({ operation: "detach-disk", volumeId })), before.slice(0, 1));
      assert.deepEqual(targets(await operate({ operation: "attach-disk", volumeId })), before);
      assert.deepEqual(await files(), disks);
    });

    /** Whether that disk is BackingUp. */
    function backUp(disk: string | undefined, backingUp: 0 | 1): void {
      const key = volume(disk ?? "");
      memory.put("volumes", { ...memory.get("volumes", key), backingUp });
    }

    const refused = (body: object) => assert.rejects(operate(body), { kind: "vm-is-backing-up" });

    it("runs on while its root disk is being backed up, and most is done to it", async () => {
      const [root, data] = disks;
      const { id: volumeId } = volume(root ?? "");
      backUp(root, 1);
      await refused({ operation: "destroy" });
      await refused({ operation: "detach-disk", volumeId });
      await refused({ operation: "detach-iso" });
      await operate({ operation: "reboot" });
      await operate({ operation: "change-cpu", cpus: 2 });
      await operate({ operation: "change-memory", memoryBytes: 96 * MiB });
      assert.equal((await operate({ operation: "start" })).state, "running");
      // Nobody hears it in this guest.
      assert.equal((await operate({ operation: "stop" })).state, "stopping");
      assert.deepEqual(await files(), disks);
      await subject.destroy(domain);
      await refused({ operation: "reinstall", imagePath: data });
      assert.equal((await operate({ operation: "start" })).state, "running");
      backUp(root, 0);
      assert.equal((await operate({ operation: "destroy" })).state, "stopped");
    });

    it("is ended and reinstalled while only its data disk is being backed up, which stays", async () => {
      const [root, data] = disks;
      const image = subject.image("image.qcow2");
      run("qemu-img", "create", "-q", "-f", "qcow2", image, `${MiB}`);
      backUp(data, 1);
      await refused({ operation: "detach-disk", volumeId: volume(data ?? "").id });
      assert.equal((await operate({ operation: "destroy" })).state, "stopped");
      await operate({ operation: "reinstall", imagePath: image });
      const [fresh, other] = await files();
      assert.notEqual(fresh, root);
      assert.equal(other, data);
    });

    it("refuses in the hypervisor's words what cannot be done as it stands", async () => {
      const imagePath = disks[1];
      await assert.rejects(operate({ operation: "reinstall", imagePath }), {
        kind: "operation-refused",
        message: /stopped/,
      });
      await assert.rejects(operate({ operation: "attach-iso", path: subject.image("no.iso") }), {
        kind: "operation-refused",
        message: /There is no file/,
      });
    });
  });
});
