import assert from "node:assert/strict";
import { readdir, rm } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { DescribeExecutionCommand, ExecutionDoesNotExist } from "@aws-sdk/client-sfn";
import type { ApiRequest } from "../../lambdas/api/api-handler.ts";
import { discover } from "../../lambdas/api/discovery.ts";
import type { operations } from "../../lambdas/api/operations.ts";
import { Problem } from "../../lambdas/api/problem.ts";
import { operateVm } from "../../lambdas/api/vms-operations.ts";
import { vmIdFor } from "../../lambdas/domain/vm.ts";
import { FileHypervisor } from "../../lambdas/hypervisors/file/file-hypervisor.ts";
import type { Hypervisor, VmDescription } from "../../lambdas/hypervisors/port.ts";
import type { Services } from "../../lambdas/services.ts";
import { transact, WriteRefused } from "../../lambdas/tables/database.ts";
import { getHypervisor } from "../../lambdas/tables/hypervisors.ts";
import { beginBackingUp, endBackingUp } from "../../lambdas/tables/volumes.ts";
import { cloud, type TestCloud } from "../support/cloud.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { servicesOf } from "../support/workflows.ts";

const MiB = 2 ** 20;
const uuid = "5f0c2b1e-9f0a-4c0e-8c39-0d6a1c2b3d4e";
const disks = ["web-root", "web-data"];

describe("a virtual machine", () => {
  let test: TestCloud;
  let directory: TestHypervisor;
  let services: Services;
  let vmId: string;
  let volumeIds: string[];
  let meanwhile: () => Promise<void> = async () => {};

  /** The files of the directory are the disks of one VM: that is what this test adds to the hypervisor. */
  function withVm(volumes: readonly string[]): Hypervisor {
    const vm: VmDescription = {
      externalId: uuid,
      name: "web",
      state: "running",
      guestAgent: "absent",
      disks: volumes.map((volumeExternalId, index) => ({ target: index === 0 ? "vda" : "vdb", volumeExternalId })),
    };
    return Object.assign(new FileHypervisor({ directory: directory.directory, allowedRoots: [directory.directory] }), {
      listVms: async function* () {
        yield vm;
      },
      describeVm: async () => vm,
      operateVm: () => meanwhile().then(() => ({ finished: true })),
    });
  }

  async function discoverVm(volumes: readonly string[] = disks): Promise<void> {
    services = { ...(await servicesOf(test)), hypervisor: async () => withVm(volumes) };
    const row = (await getHypervisor(services.database, "acme", directory.id)) ?? assert.fail();
    const found = await discover(services, row);
    assert.equal(found?.vms?.found, 1);
  }

  before(async () => {
    test = await cloud();
    directory = await TestHypervisor.register(test);
    volumeIds = [];
    for (const name of disks)
      volumeIds.push(await directory.addVolume(name, 3 * MiB + 17, [{ offset: 0, data: noise(2 * MiB) }]));
    vmId = vmIdFor(directory.id, uuid);
    await discoverVm();
  });
  after(() => directory?.remove());

  async function requestSnapshot(body: object = {}) {
    const answer = await test.call("POST", `/vms/${vmId}/snapshots`, { body });
    assert.equal(answer.status, 202, JSON.stringify(answer.body));
    return answer.body as { groupId: string; snapshots: { id: string; volumeId: string; job: { id: string } }[] };
  }

  it("is shown to its tenant, with its disks, and to nobody else", async () => {
    const { body } = await test.call("GET", `/vms/${vmId}`, { role: "reader" });
    assert.deepEqual([body.name, body.state, body.guestAgent, body.backingUp], ["web", "running", "absent", 0]);
    assert.deepEqual(
      body.disks.map(({ target, root, volumeId, name }: Record<string, unknown>) => [target, root, volumeId, name]),
      [
        ["vda", true, volumeIds[0], "web-root"],
        ["vdb", false, volumeIds[1], "web-data"],
      ],
    );
    const { body: page } = await test.call("GET", `/vms?hypervisorId=${directory.id}`);
    assert.deepEqual(page.items, [body]);
    for (const path of ["", "/snapshots", "/operations"])
      assert.equal((await test.call("GET", `/vms/${vmId}${path}`, { tenant: "bolt", role: "admin" })).status, 404);
  });

  it("is snapshotted by one execution, and each of its volumes is backed up and is restored", async () => {
    const { groupId, snapshots } = await requestSnapshot({ asyncBackup: true, name: "both" });
    for (const { job } of snapshots) assert.equal((await endedJob(test, job.id)).state, "Succeeded");
    const executionOf = (jobId: string) =>
      test.clients.sfn.send(
        new DescribeExecutionCommand({
          executionArn: `${test.outputs.StateMachineArnPrefix?.replace(":stateMachine:", ":execution:")}create-snapshot:${jobId}`,
        }),
      );
    assert.equal((await executionOf(snapshots[0]?.job.id ?? "")).status, "SUCCEEDED");
    await assert.rejects(executionOf(snapshots[1]?.job.id ?? ""), ExecutionDoesNotExist);
    for (const [index, { id }] of snapshots.entries()) {
      const { groupId: group, vmId: vm, volumeId } = await snapshotIn(test, id, ["BackedUp", "Error"]);
      assert.deepEqual([group, vm, volumeId], [groupId, vmId, volumeIds[index]]);
      const name = `restored-${index}`;
      const target = { hypervisorId: directory.id, name };
      const { body } = await test.call("POST", `/snapshots/${id}/restore`, { body: { target } });
      assert.equal((await endedJob(test, body.job.id)).state, "Succeeded");
      assert.equal(await directory.digest(name), await directory.digest(disks[index] ?? ""));
    }
    const { body } = await test.call("GET", `/vms/${vmId}/snapshots?state=BackedUp`);
    assert.deepEqual(
      body.items.map(({ id }: { id: string }) => id),
      snapshots.map(({ id }) => id).reverse(),
    );
  });

  it("of which one volume is gone gets no snapshot at all, and nothing stays on primary", async () => {
    await directory.addVolume("web-gone", MiB);
    await discoverVm(["web-root", "web-gone"]);
    await rm(path.join(directory.directory, "web-gone"));
    const { snapshots } = await requestSnapshot();
    for (const { id, job } of snapshots) {
      const { state, error } = await snapshotIn(test, id, ["Error", "BackedUp"]);
      assert.deepEqual([state, error.name], ["Error", "VolumeNotFound"]);
      assert.equal((await endedJob(test, job.id)).state, "Failed");
      assert.deepEqual((await test.call("GET", `/snapshots/${id}`)).body.references, []);
    }
    const own = await readdir(path.join(directory.directory, ".snapferry"), { recursive: true });
    assert.deepEqual(
      own.filter((name) => name.includes("snap_")),
      [],
    );
    await discoverVm();
  });

  it("is asked for what its hypervisor cannot do: that is refused by the name of the field", async () => {
    for (const path of [`/vms/${vmId}/snapshots`, `/volumes/${volumeIds[0]}/snapshots`]) {
      const { status, body } = await test.call("POST", path, { body: { quiesce: true } });
      assert.deepEqual([status, body.errors[0].pointer], [400, "/quiesce"]);
    }
    const { status, body } = await test.call("POST", `/vms/${vmId}/operations`, { body: { operation: "stop" } });
    assert.deepEqual([status, body.type], [409, "/problems/conflict"]);
  });

  describe("and an operation that takes its root disk away", () => {
    const root = () => ({ tenant: "acme", id: volumeIds[0] ?? "" });
    const now = () => new Date().toISOString();
    const begin = () => transact(services.database, [beginBackingUp(services.database, root(), now())]);

    async function destroy(): Promise<unknown> {
      const caller = { tenant: "acme", role: "operator" };
      const request = {
        caller,
        id: vmId,
        body: { operation: "destroy" },
        method: "POST",
        path: "",
        idempotencyKey: undefined,
      };
      return operateVm(services, request as unknown as ApiRequest<typeof operations.operateVm>).then(
        ({ status }) => status,
        (error: unknown) => (error instanceof Problem ? error.kind : error),
      );
    }

    it("no backup of it begins meanwhile", async () => {
      let refusal: unknown;
      meanwhile = async () => {
        refusal = await begin().catch((error: unknown) => error);
      };
      assert.equal(await destroy(), 200);
      assert.ok(refusal instanceof WriteRefused);
    });

    it("is refused while a backup of it goes on, and the API tells so", async () => {
      await begin();
      try {
        meanwhile = () => assert.fail("it was done");
        assert.equal(await destroy(), "vm-is-backing-up");
        const { body } = await test.call("GET", `/vms/${vmId}/operations`, { role: "reader" });
        const allowed = Object.fromEntries(
          body.operations.map((one: { operation: string; allowed: boolean }) => [one.operation, one.allowed]),
        );
        assert.deepEqual([allowed.destroy, allowed.stop, allowed["change-cpu"]], [false, true, true]);
        assert.equal((await test.call("GET", `/vms/${vmId}`)).body.backingUp, 1);
      } finally {
        await transact(services.database, [endBackingUp(services.database, root())]);
      }
    });
  });
});
