import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { HypervisorFailed, HypervisorUnavailable } from "../domain/errors.ts";
import type { HypervisorSettings } from "../domain/inventory.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { transact } from "../tables/database.ts";
import { insertHypervisor } from "../tables/hypervisors.ts";
import { tendHypervisors } from "./tend-hypervisors.ts";

const kvm: HypervisorSettings = { kind: "kvm", endpoint: "ssh://a@b:22", hostKeys: [], secretId: "s", uri: "u" };
const file: HypervisorSettings = { kind: "file", directory: "/srv" };

/** Registered hypervisors, and what is asked of each. */
class Registered {
  readonly memory = new MemoryDatabase();
  readonly asked: string[] = [];
  readonly logged: string[] = [];
  readonly adapters = new Map<string, Partial<Hypervisor>>();

  async add(id: string, settings: HypervisorSettings, adapter: Partial<Hypervisor>): Promise<this> {
    const row = { tenant: "acme", id, name: id, settings, tenantRules: [], createdAt: "2026-01-01T00:00:00.000Z" };
    await transact(this.memory.database, [insertHypervisor(this.memory.database, row)]);
    this.adapters.set(id, adapter);
    return this;
  }

  backingUp(snapshotId: string): this {
    const id = `job_${snapshotId}`;
    this.memory.put("jobs", { tenant: "acme", id, kind: "backup-snapshot", openKind: "backup-snapshot", snapshotId });
    return this;
  }

  tend() {
    const log = (message: string, { error: _error, ...about }: Record<string, unknown>) =>
      void this.logged.push(`${message} ${JSON.stringify(about)}`);
    const services = {
      database: this.memory.database,
      logger: { warn: log, error: log },
      hypervisor: async (_tenant: string, id: string) => this.adapters.get(id),
    } as unknown as Services;
    return tendHypervisors(services, () => false);
  }
}

describe("what dead workers left on hypervisors", () => {
  it("is ended: frozen guests first, then exports that no open backup needs, then the connection", async () => {
    const calls: string[] = [];
    const registered = await new Registered().backingUp("snap_1").add("hyp_1", kvm, {
      thaw: async () => {
        calls.push("thaw");
        return ["vm-uuid"];
      },
      closeStaleExports: async (isNeeded) => {
        const open = ["snap_1", "snap_2", "snap_3"];
        registered.backingUp("snap_3");
        const needed = await Promise.all(open.map(isNeeded));
        calls.push("exports");
        return open.filter((_, index) => !needed[index]);
      },
      close: async () => void calls.push("close"),
    });
    assert.deepEqual(await registered.tend(), { tended: 1, waiting: 0, failed: 0 });
    assert.deepEqual(calls, ["thaw", "exports", "close"]);
    assert.deepEqual(registered.logged, [
      'guests were found frozen and were thawed {"tenant":"acme","hypervisorId":"hyp_1","vms":["vm-uuid"]}',
      'exports were left open and were closed {"tenant":"acme","hypervisorId":"hyp_1","snapshots":["snap_2"]}',
    ]);
  });

  it("is ended as far as it can be: an agent that does not answer keeps no export open", async () => {
    const calls: string[] = [];
    const registered = await new Registered().add("hyp_1", kvm, {
      thaw: () => Promise.reject(new HypervisorFailed("the agent does not answer")),
      closeStaleExports: async () => ["snap_1"],
      close: async () => void calls.push("close"),
    });
    assert.deepEqual(await registered.tend(), { tended: 0, waiting: 1, failed: 0 });
    assert.deepEqual(calls, ["close"]);
    assert.deepEqual(registered.logged, [
      'exports were left open and were closed {"tenant":"acme","hypervisorId":"hyp_1","snapshots":["snap_1"]}',
      'a hypervisor cannot be looked after now {"tenant":"acme","hypervisorId":"hyp_1"}',
    ]);
  });

  it("is not looked for where nothing can be left", async () => {
    const registered = await new Registered().add("hyp_1", file, { thaw: () => assert.fail("it was asked") });
    assert.deepEqual(await registered.tend(), { tended: 0, waiting: 0, failed: 0 });
  });

  it("of one hypervisor does not hold up the others, however many there are", async () => {
    const registered = new Registered();
    let closed = 0;
    const close = async () => void closed++;
    for (let index = 0; index < 20; index++)
      await registered.add(`hyp_${index}`, kvm, {
        thaw: async () => {
          if (index === 3) throw new HypervisorUnavailable("nobody there");
          if (index === 4) throw new TypeError("a bug");
          return [];
        },
        close,
      });
    assert.deepEqual(await registered.tend(), { tended: 18, waiting: 1, failed: 1 });
    assert.equal(closed, 20);
    assert.equal(registered.logged.length, 2);
  });
});
