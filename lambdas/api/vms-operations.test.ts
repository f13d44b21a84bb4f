import assert from "node:assert/strict";
import { beforeEach, describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { VmHypervisor } from "../../test/support/vm-hypervisor.ts";
import { HypervisorUnavailable, OperationRefused, StateConflict } from "../domain/errors.ts";
import { type HypervisorRow, volumeIdFor } from "../domain/inventory.ts";
import { type DiskBackingUp, permissionWhile, type VmOperation, vmOperations } from "../domain/operations.ts";
import { backupPool } from "../domain/pool.ts";
import { changeId } from "../domain/snapshot.ts";
import { vmIdFor } from "../domain/vm.ts";
import type { VmDescription } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { type TransactionItem, WriteRefused } from "../tables/database.ts";
import { startBackup } from "../transactions/backup-snapshot.ts";
import type { ApiRequest } from "./api-handler.ts";
import type { Caller } from "./http.ts";
import type { operations } from "./operations.ts";
import { Problem } from "./problem.ts";
import { operateVmBody } from "./request-schemas.ts";
import type { VmOperationsRepresentation } from "./response-schemas.ts";
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
const names = ["web-root", "web-data", "web-logs"] as const;
const [root, data, logs] = names.map((name) => volumeIdFor(hypervisor.id, name)) as [string, string, string];
const free = volumeIdFor(hypervisor.id, "free");
const vmId = vmIdFor(hypervisor.id, "uuid-web");
const admin: Caller = { tenant: "acme", role: "admin" };
const start = Date.parse("2026-01-01T12:00:00.000Z");

/** What each operation is told; detach-disk takes the second disk. */
const bodies: Readonly<Record<VmOperation, object>> = {
  start: {},
  stop: {},
  reboot: {},
  destroy: {},
  "attach-iso": { path: "/srv/a.iso" },
  "detach-iso": {},
  "attach-disk": { volumeId: free },
  "detach-disk": { volumeId: data },
  "change-cpu": { cpus: 2 },
  "change-memory": { memoryBytes: 2 ** 30 },
  reinstall: { imagePath: "/srv/b.qcow2" },
};

function stateFor(operation: VmOperation): "running" | "stopped" {
  return operation === "reinstall" ? "stopped" : "running";
}

/** A hypervisor with one VM of three disks and a volume that is nobody's, discovered. */
class Lab {
  readonly memory = new MemoryDatabase();
  readonly host = new VmHypervisor().addVm("web", names);
  now = start;
  /** Runs once, before the first transaction that an operation writes. */
  beforeWriting: (() => Promise<void>) | undefined;

  static async discovered(): Promise<Lab> {
    const lab = new Lab();
    lab.memory.put("hypervisors", hypervisor).put("pools", { id: backupPool, running: 0 });
    for (const name of [...names, "free"]) lab.#addVolume(name);
    const tenants = new Map(names.map((name) => [volumeIdFor(hypervisor.id, name), "acme"]));
    await discoverVms(lab.services, hypervisor, lab.host.adapter, tenants, new Date(start).toISOString());
    return lab;
  }

  #addVolume(name: string): void {
    this.memory.put("volumes", {
      tenant: "acme",
      id: volumeIdFor(hypervisor.id, name),
      hypervisorId: hypervisor.id,
      hypervisorTenant: "acme",
      externalId: name,
      name,
      sizeBytes: 1024,
      inUse: name !== "free",
      backingUp: 0,
      unassigned: false,
      missing: false,
      discoveredAt: "",
    });
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
    return {
      database: { ...database, client: { send } },
      hypervisor: async () => this.host.adapter,
      logger: { info: () => undefined, warn: () => undefined },
      now: () => new Date(this.now),
    } as unknown as Services;
  }

  /** A snapshot of the volume whose backup is queued as this job. */
  queueBackup(volumeId: string, jobId = "job_1"): void {
    const common = { tenant: "acme", volumeId, attempt: 0, createdAt: "" };
    const snapshot = {
      id: `snap_${jobId}`,
      state: "CreatedOnPrimary",
      updateCount: 2,
      jobId,
      onBackupFailure: "delete",
    };
    const lastChange = changeId("job_0", "CreatedOnPrimary", 0);
    const policy = { maxAttempts: 3, retryIntervalSeconds: 1 };
    this.memory.put("snapshots", { ...common, ...snapshot, lastChange, storeId: "default", tags: {} }).put("jobs", {
      ...common,
      id: jobId,
      kind: "backup-snapshot",
      state: "Queued",
      snapshotId: snapshot.id,
      policy,
      pool: backupPool,
    });
  }

  /** Gives the queued backup its slot. Throws WriteRefused when it may not begin. */
  startBackup(jobId = "job_1") {
    return startBackup(this.memory.database, { tenant: "acme", id: jobId }, 10, new Date(this.now).toISOString());
  }

  async backUp(volumeId: string, jobId = "job_1"): Promise<void> {
    this.queueBackup(volumeId, jobId);
    assert.equal(await this.startBackup(jobId), "written");
  }

  /** On the host, and in the row. */
  beIn(state: VmDescription["state"]): void {
    this.host.setState("uuid-web", state);
    this.memory.put("vms", { ...this.row(), state });
  }

  row() {
    return this.memory.get("vms", { tenant: "acme", id: vmId }) ?? assert.fail();
  }

  backingUp(volumeId: string): unknown {
    return this.memory.get("volumes", { tenant: "acme", id: volumeId })?.backingUp;
  }

  /** Answers the problem when it is refused. */
  async operate(operation: VmOperation, more: object = bodies[operation], caller = admin, idempotencyKey?: string) {
    const body = operateVmBody.parse({ operation, ...more });
    const request = { caller, id: vmId, body, method: "POST", path: `/vms/${vmId}/operations`, idempotencyKey };
    try {
      return await operateVm(this.services, request as ApiRequest<typeof operations.operateVm>);
    } catch (error) {
      if (error instanceof Problem) return error;
      throw error;
    }
  }

  async verdicts(caller = admin) {
    const request = { caller, id: vmId } as ApiRequest<typeof operations.listVmOperations>;
    const { body } = await listVmOperations(this.services, request);
    return (body as VmOperationsRepresentation).operations;
  }
}

let lab: Lab;
beforeEach(async () => {
  lab = await Lab.discovered();
});

describe("an operation on a VM", () => {
  for (const operation of vmOperations)
    it(`${operation} is done on the hypervisor, in its words`, async () => {
      lab.beIn(stateFor(operation));
      assert.equal((await lab.operate(operation)).status, 200);
      const { volumeId, ...same } = bodies[operation] as { volumeId?: string };
      const disk = volumeId === undefined ? {} : { volumeExternalId: volumeId === free ? "free" : "web-data" };
      assert.deepEqual(lab.host.done, [{ vm: "uuid-web", request: { operation, ...same, ...disk } }]);
    });

  const disks: readonly [DiskBackingUp, string][] = [
    ["rootDisk", root],
    ["dataDisk", logs],
    ["namedDisk", data],
  ];
  for (const operation of vmOperations)
    for (const [disk, volumeId] of disks) {
      const names = operation === "detach-disk";
      const allowed = permissionWhile(operation, disk === "namedDisk" && !names ? "dataDisk" : disk) === true;
      it(`${operation} is ${allowed ? "done" : "refused"} while the ${disk} is BackingUp, and the list says so`, async () => {
        lab.beIn(stateFor(operation));
        await lab.backUp(volumeId);
        const verdict = (await lab.verdicts()).find(
          (one) => one.operation === operation && (!names || one.volumeId === data),
        );
        assert.equal(verdict?.allowed, allowed);
        const answer = await lab.operate(operation);
        if (allowed) return assert.equal(answer.status, 200);
        assert.ok(answer instanceof Problem);
        assert.equal(answer.kind, "vm-is-backing-up");
        assert.equal(answer.message, verdict.reason);
        assert.match(
          answer.message,
          /is being backed up by job_1\. Wait for it \(GET \/v1\/jobs\/job_1\) or cancel it first/,
        );
        assert.deepEqual([answer.extras.members?.jobs, verdict.jobs], [["job_1"], ["job_1"]]);
        assert.deepEqual(lab.host.done, []);
      });
    }

  it("answers the VM as it is after it", async () => {
    const { body } = (await lab.operate("stop")) as { body: { state: string } };
    assert.equal(body.state, "stopped");
  });

  for (const [operation, state, message] of [
    ["reboot", "stopped", /^reboot is refused: it needs a VM that is running\. vm_\w+ \(web\) is stopped\.$/],
    ["reinstall", "running", /^reinstall is refused: it needs a VM that is stopped\. vm_\w+ \(web\) is running\.$/],
  ] as const) {
    it(`${operation} is refused of a VM that is ${state}, in the words of the list`, async () => {
      lab.beIn(state);
      const verdict = (await lab.verdicts()).find((one) => one.operation === operation);
      const answer = (await lab.operate(operation)) as Problem;
      assert.deepEqual([answer.kind, answer.message, verdict?.allowed], ["operation-refused", verdict?.reason, false]);
      assert.match(answer.message, message);
      assert.deepEqual(lab.host.done, []);
    });

    it(`${operation} of a VM that is said to be ${state} is judged by how it is, and that is recorded`, async () => {
      lab.beIn(state);
      lab.host.setState("uuid-web", stateFor(operation));
      assert.equal((await lab.operate(operation)).status, 200);
      assert.equal(lab.row().state, stateFor(operation));
      lab.host.setState("uuid-web", state);
      assert.equal((await lab.operate(operation)).status, 409);
      assert.equal(lab.row().state, state);
    });
  }

  it("that asks a guest to stop, which takes its time, is answered with that; asked again it waits on", async () => {
    lab.host.guestsObey = false;
    const stop = async () => ((await lab.operate("stop")) as { body: { state: string } }).body.state;
    assert.deepEqual([await stop(), lab.row().state], ["stopping", "stopping"]);
    lab.host.guestsObey = true;
    assert.deepEqual([await stop(), lab.row().state], ["stopped", "stopped"]);
  });

  it("that fails leaves the VM as it is then in the books", async () => {
    lab.host.meanwhile = async () => {
      lab.host.setState("uuid-web", "paused");
      throw new HypervisorUnavailable("the VM is still being started");
    };
    assert.equal(((await lab.operate("start")) as Problem).status, 503);
    assert.equal(lab.row().state, "paused");
  });

  it("that the hypervisor refuses is a 409 in its words, and another may follow", async () => {
    lab.host.meanwhile = async () => {
      throw new OperationRefused("It is running already.");
    };
    const refused = (await lab.operate("start")) as Problem;
    assert.deepEqual([refused.kind, refused.message], ["operation-refused", "It is running already."]);
    lab.host.meanwhile = async () => {};
    assert.equal((await lab.operate("start")).status, 200);
  });

  it("is refused of a VM that is missing", async () => {
    lab.memory.put("vms", { ...lab.row(), missing: true });
    assert.equal(((await lab.operate("start")) as Problem).kind, "vm-is-missing");
    assert.ok((await lab.verdicts()).every(({ allowed }) => !allowed));
  });

  it("names no volume that is not the VM's, or that is not there", async () => {
    const notOurs = (await lab.operate("detach-disk", { volumeId: free })) as Problem;
    assert.deepEqual(notOurs.extras.errors, [{ pointer: "/volumeId", detail: `is no disk of ${vmId}` }]);
    const unknown = volumeIdFor(hypervisor.id, "nothing");
    assert.equal(((await lab.operate("attach-disk", { volumeId: unknown })) as Problem).status, 404);
  });

  it("that names a file is for administrators of the tenant that registered the hypervisor", async () => {
    const callers: readonly [Caller, boolean][] = [
      [admin, true],
      [{ tenant: "acme", role: "operator" }, false],
    ];
    lab.beIn("stopped");
    for (const operation of ["attach-iso", "reinstall"] as const)
      for (const [caller, allowed] of callers)
        assert.equal((await lab.operate(operation, bodies[operation], caller)).status, allowed ? 200 : 403);
    lab.memory.put("vms", { ...lab.row(), hypervisorTenant: "provider" });
    assert.equal((await lab.operate("reinstall")).status, 403);
  });

  for (const operation of ["destroy", "detach-disk", "stop"] as const)
    it(`${operation} of a VM whose disks were changed by others is ${operation === "stop" ? "done" : "refused: they may be being backed up"}`, async () => {
      lab.host.vms = [];
      lab.host.addVm("web", [names[1], names[0], "new"]);
      const answer = await lab.operate(operation).catch((error: unknown) => error);
      if (operation === "stop") return assert.equal((answer as { status: number }).status, 200);
      assert.ok(answer instanceof StateConflict);
      assert.match(answer.message, /Discover hyp_\w+ again/);
      assert.deepEqual(lab.host.done, []);
      assert.equal(lab.row().heldFor, undefined);
    });

  it("that attaches a disk leaves a volume that can be backed up", async () => {
    const lab = await Lab.discovered();
    const unsupported = "no VM has it as a disk";
    const row = lab.memory.get("volumes", { tenant: "acme", id: free });
    lab.memory.put("volumes", { ...row, unsupported });
    lab.host.volumes.push({ externalId: "free", name: "free", sizeBytes: 1024, inUse: false, unsupported });
    await lab.operate("attach-disk");
    const attached = lab.memory.get("volumes", { tenant: "acme", id: free });
    assert.deepEqual([attached?.unsupported, attached?.inUse, attached?.backingUp], [undefined, true, 0]);
  });

  it("of a VM that is gone is refused", async () => {
    lab.host.vms = [];
    assert.equal(((await lab.operate("start")) as Problem).kind, "conflict");
    assert.deepEqual(lab.host.done, []);
  });

  it("does not look at the other VMs of the hypervisor, whose storage may be gone", async () => {
    lab.host.listVms = () => assert.fail("they were looked at");
    assert.equal((await lab.operate("stop")).status, 200);
    assert.equal(lab.memory.get("vms", { tenant: "acme", id: vmId })?.state, "stopped");
  });

  it("on a hypervisor that cannot be reached is a 503 each time: nothing was asked for", async () => {
    lab.host.describeVm = () => Promise.reject(new HypervisorUnavailable("no route to host"));
    for (const _time of [1, 2]) assert.equal(((await lab.operate("destroy")) as Problem).status, 503);
  });

  it("is answered in time where the hypervisor does not tell how the VM is after it", async (context) => {
    context.mock.timers.enable({ apis: ["setTimeout"] });
    let looks = 0;
    const { host } = lab;
    const look = host.describeVm.bind(host);
    host.describeVm = async (id) => {
      if (looks++ > 0) await new Promise(() => {});
      return look(id);
    };
    const answer = lab.operate("stop");
    while (looks < 2) await new Promise(setImmediate);
    await new Promise(setImmediate);
    context.mock.timers.tick(5_000);
    assert.equal((await answer).status, 200);
  });

  it("names no field that is not its own, and lacks none", () => {
    for (const [body, errors] of [
      [{ operation: "detach-disk" }, [{ pointer: "/volumeId", detail: "is missing: detach-disk needs it" }]],
      [{ operation: "start", cpus: 2 }, [{ pointer: "/cpus", detail: "is no field of start" }]],
      [{ operation: "attach-iso", path: "a.iso" }, [{ pointer: "/path", detail: /absolute path on the hypervisor/ }]],
      [
        { operation: "migrate" },
        [{ pointer: "/operation", detail: /^must be "start", .* or "reinstall", not "migrate"$/ }],
      ],
    ] as const)
      assert.throws(
        () => parseBody(operateVmBody, body),
        (error: Problem) => {
          const found = error.extras.errors?.map((one) => ({ ...one })) ?? [];
          assert.equal(found.length, errors.length);
          for (const [index, { pointer, detail }] of errors.entries()) {
            const one = found[index] as { pointer: string; detail: string };
            assert.equal(one.pointer, pointer);
            if (typeof detail === "string") assert.equal(one.detail, detail);
            else assert.match(one.detail, detail);
          }
          return true;
        },
      );
  });

  it("is done once for each Idempotency-Key", async () => {
    const first = await lab.operate("reboot", {}, admin, "key-1");
    const second = await lab.operate("reboot", {}, admin, "key-1");
    assert.deepEqual(second, first);
    assert.equal(lab.host.done.length, 1);
  });
});

describe("a backup and an operation that its disk is not to lose", () => {
  for (const [operation, volumeId] of [
    ["destroy", root],
    ["reinstall", root],
    ["detach-disk", data],
  ] as const) {
    it(`${operation} is not done when a backup begins after it was judged`, async () => {
      lab.beforeWriting = () => lab.backUp(volumeId);
      const answer = (await lab.operate(operation)) as Problem;
      assert.equal(answer.kind, "vm-is-backing-up");
      assert.deepEqual(lab.host.done, []);
      assert.equal(lab.backingUp(volumeId), 1);
    });

    it(`no backup begins while ${operation} is done, and one does after it`, async () => {
      lab.beIn(stateFor(operation));
      lab.queueBackup(volumeId);
      lab.host.meanwhile = () => assert.rejects(lab.startBackup(), WriteRefused);
      assert.equal((await lab.operate(operation)).status, 200);
      assert.equal(lab.backingUp(volumeId), 0);
      assert.equal(await lab.startBackup(), "written");
    });
  }

  it("a backup of another disk begins while the operation is done", async () => {
    lab.queueBackup(logs);
    lab.host.meanwhile = async () => assert.equal(await lab.startBackup(), "written");
    assert.equal((await lab.operate("destroy")).status, 200);
  });

  it("another operation is refused meanwhile, and says until when", async () => {
    let second: Problem | undefined;
    lab.host.meanwhile = async () => {
      lab.host.meanwhile = async () => {};
      second = (await lab.operate("stop")) as Problem;
    };
    assert.equal((await lab.operate("reboot")).status, 200);
    assert.equal(second?.kind, "vm-is-being-operated");
    assert.match(second.message, /2026-01-01T12:01:00\.000Z/);
    assert.equal(lab.host.done.length, 1);
  });

  it("what may still be carried out holds the disk back until its time is up", async () => {
    lab.queueBackup(root);
    lab.host.meanwhile = async () => {
      throw new HypervisorUnavailable("the connection broke");
    };
    assert.equal((await lab.operate("destroy")).status, 503);
    lab.now = start + 59_999;
    await assert.rejects(lab.startBackup(), WriteRefused);
    const other = (await lab.operate("reinstall")) as Problem;
    assert.deepEqual(
      [other.kind, /disk vda .* 2026-01-01T12:01:00\.000Z/.test(other.message)],
      ["vm-is-being-operated", true],
    );
    lab.now = start + 60_000;
    assert.equal(await lab.startBackup(), "written");
  });

  it("what may still be carried out may be asked for again, and the VM is free for all else", async () => {
    lab.beIn("stopped");
    lab.host.meanwhile = async () => {
      lab.host.meanwhile = async () => {};
      throw new HypervisorUnavailable("the image is still being copied: ask for the same again");
    };
    assert.equal((await lab.operate("reinstall")).status, 503);
    assert.equal((await lab.operate("stop")).status, 200);
    assert.equal((await lab.operate("reinstall")).status, 200);
    lab.queueBackup(root);
    assert.equal(await lab.startBackup(), "written");
  });
});
