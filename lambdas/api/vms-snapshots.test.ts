/** Snapshots of VMs from their request to their backups' queue, with all that may go wrong on the way. */
import assert from "node:assert/strict";
import { beforeEach, describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { VmHypervisor } from "../../test/support/vm-hypervisor.ts";
import { newId } from "../domain/ids.ts";
import { type HypervisorRow, volumeIdFor } from "../domain/inventory.ts";
import { executionInput, executionName, type Job } from "../domain/job.ts";
import { parseSettings } from "../domain/settings.ts";
import { mostDefinitionBytes, type Snapshot } from "../domain/snapshot.ts";
import { vmIdFor } from "../domain/vm.ts";
import { cancelJob } from "../endings/end-job.ts";
import { reconcileJob } from "../endings/reconcile.ts";
import type { ExecutionStatus, Executions } from "../executions/executions.ts";
import type { Services } from "../services.ts";
import { type TransactionItem, transact } from "../tables/database.ts";
import { getSnapshot } from "../tables/snapshots.ts";
import { createSnapshotStates } from "../tasks/create-snapshot.ts";
import { deleteSnapshotStates } from "../tasks/delete-snapshot.ts";
import { callState } from "../tasks/state-function.ts";
import { requireSnapshot } from "../transactions/create-snapshot.ts";
import { requestDelete } from "../transactions/delete-snapshot.ts";
import type { ApiRequest } from "./api-handler.ts";
import type { Caller } from "./http.ts";
import { showSnapshots } from "./lookups.ts";
import type { operations } from "./operations.ts";
import { Problem } from "./problem.ts";
import { createVmSnapshotBody, listVmSnapshotsQuery, mostVolumesTogether } from "./request-schemas.ts";
import type { SnapshotRepresentation, VmSnapshotRepresentation } from "./response-schemas.ts";
import { discoverVms } from "./vms-discovery.ts";
import { createVmSnapshot, listVmSnapshots } from "./vms-snapshots.ts";

const hypervisor: HypervisorRow = {
  tenant: "acme",
  id: "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
  name: "lab",
  settings: { kind: "file", directory: "/srv" },
  tenantRules: [],
  createdAt: "2026-01-01T00:00:00.000Z",
  quiesces: true,
};
const vmId = vmIdFor(hypervisor.id, "uuid-web");
const operator: Caller = { tenant: "acme", role: "operator" };
/** DynamoDB takes no more in one transaction. */
const mostItems = 100;

const idOf = (name: string) => volumeIdFor(hypervisor.id, name);

/** A discovered hypervisor with one VM; executions are run by hand. */
class Lab {
  readonly memory = new MemoryDatabase();
  readonly host = new VmHypervisor();
  readonly started: string[] = [];
  status: ExecutionStatus = "RUNNING";
  now = Date.parse("2026-01-01T12:00:00.000Z");

  static async discovered(disks: readonly string[], tenantOf: (name: string) => string = () => "acme"): Promise<Lab> {
    const lab = new Lab();
    lab.host.addVm("web", disks);
    lab.memory.put("hypervisors", hypervisor);
    for (const name of disks) lab.putVolume(name, tenantOf(name));
    const tenants = new Map(disks.map((name) => [idOf(name), tenantOf(name)]));
    await discoverVms(lab.services, hypervisor, lab.host.adapter, tenants, "2026-01-01T00:00:00.000Z");
    return lab;
  }

  putVolume(name: string, tenant = "acme", more: object = {}): void {
    this.memory.put("volumes", {
      tenant,
      id: idOf(name),
      hypervisorId: hypervisor.id,
      hypervisorTenant: "acme",
      externalId: name,
      name,
      sizeBytes: 1024,
      inUse: true,
      backingUp: 0,
      unassigned: false,
      missing: false,
      discoveredAt: "",
      ...more,
    });
  }

  get services(): Services {
    const { database } = this.memory;
    const send = async (command: { input: { TransactItems?: TransactionItem[] } }) => {
      const count = command.input.TransactItems?.length ?? 0;
      assert.ok(count <= mostItems, `${count} items in a transaction`);
      return database.client.send(command as never);
    };
    const executions: Executions = {
      start: async (job) => {
        this.started.push(executionName(job));
      },
      status: async () => this.status,
      stop: async () => {
        this.status = "ENDED_BADLY";
      },
    };
    return {
      database: { ...database, client: { send } },
      executions,
      hypervisor: async () => this.host.adapter,
      settings: async () => parseSettings({}),
      logger: { info: () => undefined, warn: () => undefined, error: () => undefined },
      now: () => new Date(this.now),
    } as unknown as Services;
  }

  async request(body: object = {}, caller = operator, idempotencyKey?: string): Promise<VmSnapshotRepresentation> {
    const request = {
      caller,
      id: vmId,
      body: createVmSnapshotBody.parse(body),
      method: "POST",
      path: `/vms/${vmId}/snapshots`,
      idempotencyKey,
    };
    const { status, body: answer } = await createVmSnapshot(
      this.services,
      request as ApiRequest<typeof operations.createVmSnapshot>,
    );
    assert.equal(status, 202);
    return answer as VmSnapshotRepresentation;
  }

  refusal(body: object = {}, caller = operator): Promise<Problem> {
    return this.request(body, caller).then(
      () => assert.fail("it was not refused"),
      (error: unknown) => (error instanceof Problem ? error : assert.fail(String(error))),
    );
  }

  job(id: string): Job {
    const row = this.memory.get("jobs", { tenant: "acme", id }) ?? assert.fail(`${id} is gone`);
    return { ...row, open: row.openKind !== undefined } as unknown as Job;
  }

  snapshot(id: string): Snapshot {
    return (this.memory.get("snapshots", { tenant: "acme", id }) ??
      assert.fail(`${id} is gone`)) as unknown as Snapshot;
  }

  reference(snapshotId: string) {
    return this.memory.get("storeReferences", { tenant: "acme", reference: `${snapshotId}#Primary#${hypervisor.id}` });
  }

  /** Runs the execution that the group's first job started, as `create-snapshot.asl.json` does. Answers the states that ran. */
  async execute({ snapshots }: VmSnapshotRepresentation, meanwhile: Record<string, () => Promise<unknown>> = {}) {
    const job = executionInput(this.job(snapshots[0]?.job.id ?? ""));
    const ran: string[] = [];
    const state = async (name: string, input: object = {}) => {
      ran.push(name);
      const answer = await callState(
        createSnapshotStates,
        name,
        this.services,
        { job, ...input },
        { until: () => false },
      );
      await meanwhile[name]?.();
      return answer;
    };
    try {
      const { proceed } = (await state("Begin")) as { proceed: boolean };
      if (!proceed) return [...ran, "Superseded"];
      const frozen = await state("Take");
      await state("Complete", { frozen });
    } catch (error) {
      const { name, message } = error as Error;
      await state("Fail", { error: { Error: name, Cause: JSON.stringify({ errorMessage: message }) } });
    }
    return ran;
  }

  /** Asks for the deletion of a snapshot, as the API does. */
  async delete(id: string): Promise<void> {
    const { database } = this.memory;
    const snapshot = (await getSnapshot(database, "acme", id)) ?? assert.fail();
    const job = { id: newId("job"), kind: "delete-snapshot", state: "Queued", tenant: "acme", snapshotId: id };
    await transact(database, await requestDelete(database, snapshot, job as unknown as Job, new Date().toISOString()));
  }

  /** The definition that is saved with a snapshot. */
  definition(snapshotId: string): unknown {
    const reference = `vm-definition#${snapshotId}`;
    return this.memory.get("storeReferences", { tenant: "acme", reference })?.definition;
  }

  /** Deletes a snapshot that has no backup, to the end. */
  async destroy(id: string): Promise<void> {
    await this.delete(id);
    const job = executionInput(this.job(this.snapshot(id).jobId));
    for (const state of ["Begin", "DeletePrimary", "Complete"])
      await callState(deleteSnapshotStates, state, this.services, { job }, { until: () => false });
    assert.equal(this.snapshot(id).state, "Destroyed");
  }

  assertNothingLeft(snapshots: readonly SnapshotRepresentation[]): void {
    for (const { id, job } of snapshots) {
      assert.equal(this.snapshot(id).state, "Error");
      assert.equal(this.reference(id), undefined);
      assert.deepEqual([this.job(job.id).state, this.job(job.id).open], ["Failed", false]);
    }
    assert.deepEqual([...this.host.frozen], []);
  }
}

const disks = ["web-root", "web-data", "web-logs"];
let lab: Lab;
beforeEach(async () => {
  lab = await Lab.discovered(disks);
});

describe("a snapshot of a VM", () => {
  it("is one of each of its volumes, with one execution for all", async () => {
    const { groupId, snapshots } = await lab.request({ name: "nightly", tags: { env: "prod" } });
    assert.deepEqual(
      snapshots.map(({ volumeId, state, name, tags, vmId, groupId }) => ({
        volumeId,
        state,
        name,
        tags,
        vmId,
        groupId,
      })),
      disks.map((disk) => ({
        volumeId: idOf(disk),
        state: "Allocated",
        name: "nightly",
        tags: { env: "prod" },
        vmId,
        groupId,
      })),
    );
    assert.deepEqual(lab.started, [snapshots[0]?.job.id]);
  });

  it("freezes all at one moment, as it was asked to, and queues a backup of each", async () => {
    const made = await lab.request({ quiesce: "preferred" });
    assert.deepEqual(await lab.execute(made), ["Begin", "Take", "Complete"]);
    assert.deepEqual(lab.host.takes, [{ snapshotIds: made.snapshots.map(({ id }) => id), quiesce: "preferred" }]);
    for (const { id, job, volumeId } of made.snapshots) {
      const { state, consistency, jobId } = lab.snapshot(id);
      assert.deepEqual([state, consistency], ["CreatedOnPrimary", "filesystem"]);
      const { backupJobId, state: jobState } = lab.job(job.id);
      assert.deepEqual([backupJobId, jobState], [jobId, "Running"]);
      const backup = lab.job(jobId);
      assert.deepEqual(
        [backup.kind, backup.state, backup.parentJobId, backup.volumeId],
        ["backup-snapshot", "Queued", job.id, volumeId],
      );
      assert.equal(lab.reference(id)?.state, "Ready");
    }
    assert.equal(lab.host.frozen.size, 3);
  });

  it("ends with its jobs at CreatedOnPrimary when the backup is asynchronous", async () => {
    const made = await lab.request({ asyncBackup: true });
    await lab.execute(made);
    for (const { job } of made.snapshots) assert.equal(lab.job(job.id).state, "Succeeded");
  });

  it("may be of some of its volumes, in their order", async () => {
    const { snapshots } = await lab.request({ volumeIds: [idOf("web-logs"), idOf("web-root")] });
    assert.deepEqual(
      snapshots.map(({ volumeId }) => volumeId),
      [idOf("web-logs"), idOf("web-root")],
    );
  });

  it("of as many volumes as may be taken together fits into DynamoDB's transactions at each step", async () => {
    lab = await Lab.discovered(Array.from({ length: mostVolumesTogether }, (_, index) => `disk-${index}`));
    const made = await lab.request({}, operator, "key-1");
    assert.deepEqual(await lab.execute(made), ["Begin", "Take", "Complete"]);
    assert.equal(made.snapshots.length, mostVolumesTogether);
    lab.host.broken = "disk-7";
    const failing = await lab.request();
    await lab.execute(failing);
    for (const { id } of failing.snapshots) assert.equal(lab.snapshot(id).state, "Error");
  });

  it("is made once for each Idempotency-Key, and a repetition is told of it as it is then", async () => {
    const first = await lab.request({}, operator, "key-1");
    await lab.execute(first);
    const second = await lab.request({}, operator, "key-1");
    assert.equal(second.groupId, first.groupId);
    assert.deepEqual(
      second.snapshots.map(({ id, state }) => ({ id, state })),
      first.snapshots.map(({ id }) => ({ id, state: "CreatedOnPrimary" })),
    );
  });

  it("is listed with the VM, newest first", async () => {
    const [older, newer] = [await lab.request({ volumeIds: [idOf("web-root")] }), await lab.request()];
    const request = { caller: operator, id: vmId, query: listVmSnapshotsQuery.parse({}) };
    const { body } = await listVmSnapshots(lab.services, request as ApiRequest<typeof operations.listVmSnapshots>);
    assert.deepEqual(
      (body as { items: SnapshotRepresentation[] }).items.map(({ id }) => id),
      [...older.snapshots, ...newer.snapshots].map(({ id }) => id).reverse(),
    );
  });
});

describe("a snapshot of a VM is refused", () => {
  it("with a disk of another tenant, unless the others are named", async () => {
    lab = await Lab.discovered(disks, (name) => (name === "web-data" ? "bolt" : "acme"));
    const refusal = await lab.refusal();
    assert.equal(refusal.kind, "vm-has-other-disks");
    assert.match(refusal.message, /vdb/);
    assert.doesNotMatch(refusal.message, new RegExp(idOf("web-data")));
    const named = await lab.refusal({ volumeIds: [idOf("web-data")] });
    assert.deepEqual(named.extras.errors, [{ pointer: "/volumeIds/0", detail: `is no disk of ${vmId}` }]);
    assert.equal((await lab.request({ volumeIds: [idOf("web-root"), idOf("web-logs")] })).snapshots.length, 2);
  });

  it("with a volume that cannot be backed up, is missing, or is being restored", async () => {
    for (const [more, kind] of [
      [{ unsupported: "it is a block device" }, "volume-is-unsupported"],
      [{ missing: true }, "volume-is-missing"],
      [{ restoringJobId: "job_9" }, "volume-is-restoring"],
    ] as const) {
      lab.putVolume("web-data", "acme", more);
      assert.equal((await lab.refusal()).kind, kind);
    }
  });

  it("of a VM that is missing, or that another tenant has", async () => {
    assert.equal((await lab.refusal({}, { tenant: "bolt", role: "admin" })).kind, "not-found");
    lab.memory.put("vms", { ...lab.memory.get("vms", { tenant: "acme", id: vmId }), missing: true });
    assert.equal((await lab.refusal()).kind, "vm-is-missing");
  });

  it("with more disks than can be taken together", async () => {
    lab = await Lab.discovered(Array.from({ length: mostVolumesTogether + 1 }, (_, index) => `disk-${index}`));
    assert.match((await lab.refusal()).message, /25 can be taken together/);
  });

  it("that is to be quiesced where the hypervisor cannot, by the name of the field", async () => {
    lab.memory.put("hypervisors", { ...hypervisor, quiesces: false });
    const { status, extras } = await lab.refusal({ quiesce: true });
    assert.deepEqual([status, extras.errors?.map((error) => "pointer" in error && error.pointer)], [400, ["/quiesce"]]);
    assert.equal((await lab.request({ quiesce: "preferred" })).snapshots.length, 3);
  });

  it("leaves nothing behind", async () => {
    lab.putVolume("web-data", "acme", { missing: true });
    await lab.refusal();
    assert.deepEqual([lab.started, lab.host.takes], [[], []]);
  });
});

describe("the definition of a VM", () => {
  it("is saved with each snapshot, apart from the rows that are listed, and goes with it", async () => {
    const made = await lab.request();
    await lab.execute(made);
    for (const [index, { id }] of made.snapshots.entries()) {
      const target = `vd${"abc"[index]}`;
      assert.deepEqual(lab.snapshot(id).vmDefinition, { name: "web", target });
      assert.equal(lab.definition(id), "definition");
      assert.ok(!JSON.stringify(lab.snapshot(id)).includes('"definition"'));
    }
    const [first, second] = made.snapshots.map(({ id }) => id) as [string, string];
    const [shown] = await showSnapshots(lab.services, [await requireSnapshot(lab.memory.database, "acme", first)]);
    assert.deepEqual([shown?.vmDefinition, shown?.references.length], [{ name: "web", target: "vda" }, 1]);
    await lab.destroy(first);
    assert.deepEqual([lab.definition(first), lab.definition(second)], [undefined, "definition"]);
    assert.equal(lab.snapshot(first).vmDefinition, undefined);
  });

  it("is not saved when it is too large, and the snapshot is taken all the same", async () => {
    for (const [bytes, isSaved] of [
      [mostDefinitionBytes, true],
      [mostDefinitionBytes + 2, false],
    ] as const) {
      lab.host.definition = "ä".repeat(bytes / 2);
      const made = await lab.request();
      assert.deepEqual(await lab.execute(made), ["Begin", "Take", "Complete"]);
      const [{ id } = { id: "" }] = made.snapshots;
      assert.equal(lab.snapshot(id).state, "CreatedOnPrimary");
      assert.deepEqual(
        [lab.snapshot(id).vmDefinition !== undefined, lab.definition(id) !== undefined],
        [isSaved, isSaved],
      );
    }
  });

  it("is not saved when the VM is another tenant's, or nobody's: only the disk is the tenant's own", async () => {
    for (const change of [{ unassigned: true }, { hypervisorTenant: "bolt" }]) {
      lab = await Lab.discovered(disks);
      const made = await lab.request();
      lab.memory.put("vms", { ...lab.memory.get("vms", { tenant: "acme", id: vmId }), ...change });
      await lab.execute(made);
      for (const { id } of made.snapshots)
        assert.deepEqual([lab.definition(id), lab.snapshot(id).vmDefinition], [undefined, undefined]);
    }
  });

  it("is not saved by a worker that comes when the snapshot was given up", async () => {
    const made = await lab.request();
    const [first] = made.snapshots;
    const job = executionInput(lab.job(first?.job.id ?? ""));
    const run = (name: string) => callState(createSnapshotStates, name, lab.services, { job }, { until: () => false });
    await run("Begin");
    await cancelJob(lab.services, "acme", first?.job.id ?? "");
    await run("Take");
    assert.equal(lab.definition(first?.id ?? ""), undefined);
  });
});

describe("when one of a VM's volumes cannot be had", () => {
  it("all snapshots are in Error and nothing is on primary", async () => {
    lab.host.broken = "web-logs";
    const made = await lab.request();
    assert.deepEqual(await lab.execute(made), ["Begin", "Take", "Fail"]);
    lab.assertNothingLeft(made.snapshots);
    assert.equal(lab.snapshot(made.snapshots[0]?.id ?? "").error?.name, "HypervisorFailed");
  });

  it("so also when the worker died after it had frozen all", async () => {
    const made = await lab.request();
    const ran = await lab.execute(made, { Take: () => Promise.reject(new Error("the worker died")) });
    assert.deepEqual(ran, ["Begin", "Take", "Fail"]);
    lab.assertNothingLeft(made.snapshots);
  });

  for (const [which, index] of [
    ["the first", 0],
    ["another", 1],
  ] as const)
    it(`so also when ${which} was deleted before the execution began`, async () => {
      const made = await lab.request();
      const deleted = made.snapshots[index] ?? assert.fail();
      await lab.delete(deleted.id);
      assert.deepEqual(await lab.execute(made), ["Begin", "Fail"]);
      const others = made.snapshots.filter(({ id }) => id !== deleted.id);
      lab.assertNothingLeft(others);
      for (const { id } of others)
        assert.match(lab.snapshot(id).error?.message ?? "", new RegExp(`${deleted.id} .* is not wanted any more`));
      assert.equal(lab.snapshot(deleted.id).state, "Destroying");
      assert.equal(lab.job(deleted.job.id).state, "Cancelled");
      assert.deepEqual(lab.host.takes, []);
    });

  it("nothing is begun when all were deleted before", async () => {
    const made = await lab.request();
    for (const { id } of made.snapshots) await lab.delete(id);
    assert.deepEqual(await lab.execute(made), ["Begin", "Superseded"]);
  });

  it("cancelling one job cancels all of them", async () => {
    const made = await lab.request();
    await lab.execute(made, { Begin: () => cancelJob(lab.services, "acme", made.snapshots[1]?.job.id ?? "") });
    for (const { id, job } of made.snapshots) {
      assert.equal(lab.snapshot(id).state, "Error");
      assert.deepEqual([lab.job(job.id).state, lab.job(job.id).error?.name], ["Cancelled", "JobCancelled"]);
    }
  });

  it("each is cancelled by itself once they exist", async () => {
    const made = await lab.request();
    await lab.execute(made);
    const [first, second] = made.snapshots.map(({ id }) => id);
    await cancelJob(lab.services, "acme", made.snapshots[0]?.job.id ?? "");
    assert.deepEqual(
      [lab.snapshot(first ?? "").state, lab.snapshot(second ?? "").state],
      ["Error", "CreatedOnPrimary"],
    );
  });
});

describe("what is not heard of any more", () => {
  it("an execution that ended without a word fails all jobs of its group, whichever is looked at", async () => {
    const made = await lab.request();
    lab.status = "ENDED_BADLY";
    lab.now += 3_600_000;
    assert.equal(await reconcileJob(lab.services, lab.job(made.snapshots[2]?.job.id ?? ""), () => false), true);
    for (const { id, job } of made.snapshots) {
      assert.deepEqual([lab.snapshot(id).state, lab.snapshot(id).error?.name], ["Error", "ExecutionDied"]);
      assert.deepEqual([lab.job(job.id).state, lab.job(job.id).open], ["Failed", true]);
    }
  });

  it("an execution that was never started is started under the name of the first job", async () => {
    const made = await lab.request();
    lab.started.length = 0;
    lab.status = "UNKNOWN";
    lab.now += 3_600_000;
    await reconcileJob(lab.services, lab.job(made.snapshots[2]?.job.id ?? ""), () => false);
    assert.deepEqual(lab.started, [made.snapshots[0]?.job.id]);
  });

  it("a state that runs again changes nothing", async () => {
    const made = await lab.request();
    const before = () => JSON.stringify(made.snapshots.map(({ id }) => [lab.snapshot(id), lab.reference(id)]));
    const job = executionInput(lab.job(made.snapshots[0]?.job.id ?? ""));
    const run = (name: string, input: object = {}) =>
      callState(createSnapshotStates, name, lab.services, { job, ...input }, { until: () => false });
    await run("Begin");
    const begun = before();
    assert.deepEqual(await run("Begin"), { proceed: true });
    assert.equal(before(), begun);
    const frozen = await run("Take");
    assert.deepEqual(await run("Take"), frozen);
    await run("Complete", { frozen });
    const completed = before();
    await run("Complete", { frozen });
    assert.equal(before(), completed);
  });
});
