import assert from "node:assert/strict";
import { beforeEach, describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { VmHypervisor } from "../../test/support/vm-hypervisor.ts";
import { type HypervisorRow, volumeIdFor } from "../domain/inventory.ts";
import { vmIdFor } from "../domain/vm.ts";
import type { Services } from "../services.ts";
import type { ApiRequest } from "./api-handler.ts";
import { decodeCursor } from "./cursor.ts";
import { discover } from "./discovery.ts";
import type { Caller, Role } from "./http.ts";
import type { operations } from "./operations.ts";
import type { VmRepresentation } from "./response-schemas.ts";
import { listVms, readVm } from "./vms.ts";

const hypervisor: HypervisorRow = {
  tenant: "acme",
  id: "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
  name: "lab",
  settings: { kind: "file", directory: "/srv" },
  tenantRules: [
    { pattern: "web*", tenant: "acme" },
    { pattern: "bolt*", tenant: "bolt" },
  ],
  createdAt: "2026-01-01T00:00:00.000Z",
};

const idOf = (name: string) => vmIdFor(hypervisor.id, `uuid-${name}`);

let memory: MemoryDatabase;
let services: Services;

beforeEach(async () => {
  const host = new VmHypervisor()
    .addVm("web-1", ["web-1-root", "bolt-shared", "nobody"])
    .addVm("web-2", ["web-2-root"])
    .addVm("web-3", [])
    .addVm("bolt-1", ["bolt-root"])
    .addVm("other", ["other-root"]);
  memory = new MemoryDatabase().put("hypervisors", hypervisor);
  services = {
    database: memory.database,
    hypervisor: async () => host.adapter,
    now: () => new Date("2026-01-01T12:00:00.000Z"),
  } as unknown as Services;
  const found = await discover(services, hypervisor);
  assert.deepEqual(found, { found: 6, added: 6, missing: 0, unsupported: 0, vms: { found: 5, added: 5, missing: 0 } });
});

function as(role: Role, tenant = "acme"): Caller {
  return { tenant, role };
}

async function page(caller: Caller, query: { limit?: number; cursor?: string } = {}) {
  const request = { caller, query: { limit: 100, ...query } } as ApiRequest<typeof operations.listVms>;
  const { body } = await listVms(services, request);
  return body as { items: VmRepresentation[]; nextCursor?: string };
}

async function look(name: string, caller = as("reader")): Promise<VmRepresentation> {
  const { body } = await readVm(services, { caller, id: idOf(name) } as ApiRequest<typeof operations.getVm>);
  return body as VmRepresentation;
}

describe("virtual machines", () => {
  it("are listed to their tenant, those that no rule gave away to administrators only", async () => {
    const namesFor = async (caller: Caller) => (await page(caller)).items.map(({ name }) => name).sort();
    assert.deepEqual(await namesFor(as("operator")), ["web-1", "web-2", "web-3"]);
    assert.deepEqual(await namesFor(as("admin")), ["other", "web-1", "web-2", "web-3"]);
    assert.deepEqual(await namesFor(as("reader", "bolt")), ["bolt-1"]);
  });

  it("are listed page by page, each once", async () => {
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const { items, nextCursor } = await page(as("reader"), { limit: 1, ...(cursor ? { cursor } : {}) });
      seen.push(...items.map(({ name }) => name));
      cursor = nextCursor && decodeCursor(nextCursor);
    } while (cursor !== undefined && seen.length < 10);
    assert.deepEqual(seen.sort(), ["web-1", "web-2", "web-3"]);
  });

  it("of others are not there, nor are unassigned ones for who is no administrator", async () => {
    for (const [name, caller] of [
      ["bolt-1", as("admin")],
      ["web-1", as("admin", "bolt")],
      ["other", as("operator")],
    ] as const)
      await assert.rejects(look(name, caller), { kind: "not-found" });
    assert.equal((await look("other", as("admin"))).unassigned, true);
  });

  it("show the volumes of their disks to who may know of them", async () => {
    const shown = async (role: Role) => (await look("web-1", as(role))).disks.map(({ volumeId }) => volumeId);
    const [root, , nobody] = ["web-1-root", "bolt-shared", "nobody"].map((name) => volumeIdFor(hypervisor.id, name));
    assert.deepEqual(await shown("reader"), [root, undefined, undefined]);
    assert.deepEqual(await shown("admin"), [root, undefined, nobody]);
  });

  it("count the backups of all their disks, whoever has them", async () => {
    for (const [tenant, name] of [
      ["acme", "web-1-root"],
      ["bolt", "bolt-shared"],
    ] as const) {
      const key = { tenant, id: volumeIdFor(hypervisor.id, name) };
      memory.put("volumes", { ...memory.get("volumes", key), backingUp: 2 });
    }
    assert.equal((await look("web-1")).backingUp, 4);
  });

  it("that are missing say so", async () => {
    const key = { tenant: "acme", id: idOf("web-2") };
    memory.put("vms", { ...memory.get("vms", key), missing: true });
    assert.equal((await look("web-2")).state, "missing");
  });
});
