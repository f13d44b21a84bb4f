import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ConditionalCheckFailedException } from "@aws-sdk/client-dynamodb";
import { GetCommand, QueryCommand, type UpdateCommand } from "@aws-sdk/lib-dynamodb";
import { type HypervisorRow, volumeIdFor } from "../domain/inventory.ts";
import { type Vm, vmIdFor } from "../domain/vm.ts";
import type { Hypervisor, VmDescription, VolumeDescription } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { discover } from "./discovery.ts";

const id = "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEY";
const volumeId = volumeIdFor(id, "web-root");

type Row = Record<string, unknown>;

/** The rows of volumes, VMs and hypervisors; a condition of an update is that of what is discovered. */
class Tables {
  readonly tables = { volumes: "volumes", vms: "vms", hypervisors: "hypervisors" };
  readonly rows = new Map<string, Row>();

  put(table: string, row: Row): this {
    this.rows.set(this.#key(table, row), row);
    return this;
  }

  get(table: string, tenant: string, rowId: string): Row | undefined {
    return this.rows.get(this.#key(table, { tenant, id: rowId }));
  }

  #key(table: string, { tenant, id }: Row): string {
    return `${table} ${tenant} ${id}`;
  }

  readonly client = {
    send: async (command: GetCommand | QueryCommand | UpdateCommand) => {
      const { TableName = "" } = command.input;
      if (command instanceof QueryCommand)
        return {
          Items: [...this.rows].flatMap(([key, row]) =>
            key.startsWith(`${TableName} `) && row.hypervisorId === id ? [row] : [],
          ),
        };
      const row = this.rows.get(this.#key(TableName, command.input.Key ?? {}));
      if (command instanceof GetCommand) return { Item: row };
      const { Key = {}, ExpressionAttributeValues: values = {}, ConditionExpression } = command.input;
      const allowed = [values[":hypervisorTenant"], values[":insteadOf"]];
      if (ConditionExpression?.includes(":insteadOf") && row && !allowed.includes(row.hypervisorTenant))
        throw new ConditionalCheckFailedException({ message: "", $metadata: {} });
      if (ConditionExpression === "attribute_exists(id)" && !row)
        throw new ConditionalCheckFailedException({ message: "", $metadata: {} });
      const set = Object.entries(values).map(([name, value]) => [name.slice(1), value]);
      this.put(TableName, { ...row, ...Key, ...Object.fromEntries(set) });
      return {};
    },
  };
}

function hypervisorOf(tenant: string, pattern = "*", to = "acme"): HypervisorRow {
  return {
    tenant,
    id,
    name: "lab",
    settings: { kind: "file", directory: "/srv" },
    tenantRules: [{ pattern, tenant: to }],
    createdAt: "2026-01-01T00:00:00.000Z",
  };
}

function volumeNamed(name: string): VolumeDescription {
  return { externalId: name, name, sizeBytes: 512, inUse: false };
}

/** Without `vms` it is of a kind that has none. */
function hypervisorWith(volumes: readonly VolumeDescription[], vms?: readonly VmDescription[]) {
  const list = async function* <Item>(items: readonly Item[]) {
    yield* items;
  };
  return {
    capabilities: { quiesce: vms !== undefined, changeTracking: false, snapshotCopies: false },
    listVolumes: () => list(volumes),
    ...(vms === undefined ? {} : { listVms: () => list(vms) }),
  };
}

function servicesOn(
  tables: Tables,
  warn: (text: string) => void = () => undefined,
  adapter: Pick<Hypervisor, "listVolumes" | "listVms" | "capabilities"> = hypervisorWith([volumeNamed("web-root")]),
): Services {
  return {
    database: tables,
    hypervisor: async () => adapter,
    logger: { warn },
    now: () => new Date(0),
  } as unknown as Services;
}

/** What becomes of the row of acme's volume when a hypervisor with a volume of that name is looked through. */
async function ownerAfter(tables: Tables, hypervisor: HypervisorRow) {
  const warnings: string[] = [];
  const services = servicesOn(tables, (text) => warnings.push(text));
  tables.put("hypervisors", { ...hypervisor });
  const { found, added } = (await discover(services, hypervisor)) ?? {};
  const { hypervisorTenant } = tables.get("volumes", "acme", volumeId) ?? {};
  return { hypervisorTenant, found, added, warned: warnings.length > 0 };
}

const volume = { tenant: "acme", id: volumeId, hypervisorId: id };

describe("a discovery", () => {
  it("gives a new volume to the tenant that the rules name", async () => {
    const outcome = await ownerAfter(new Tables(), hypervisorOf("provider"));
    assert.deepEqual(outcome, { hypervisorTenant: "provider", found: 1, added: 1, warned: false });
  });

  it("takes no volume over from another tenant's hypervisor that is registered under the same id", async () => {
    for (const owner of ["provider", "acme"]) {
      const tables = new Tables()
        .put("volumes", { ...volume, hypervisorTenant: owner })
        .put("hypervisors", { ...hypervisorOf(owner) });
      const outcome = await ownerAfter(tables, hypervisorOf("squatter"));
      assert.deepEqual(outcome, { hypervisorTenant: owner, found: 1, added: 0, warned: true });
    }
  });

  it("takes over what was imported, where nobody has that hypervisor", async () => {
    const tables = new Tables().put("volumes", { ...volume, hypervisorTenant: "acme", missing: true });
    const outcome = await ownerAfter(tables, hypervisorOf("provider"));
    assert.deepEqual(outcome, { hypervisorTenant: "provider", found: 1, added: 1, warned: false });
  });

  it("of a hypervisor that was forgotten meanwhile is of none", async () => {
    assert.equal(await discover(servicesOn(new Tables()), hypervisorOf("provider")), undefined);
  });

  it("of a tenant's own hypervisor has the last word on that tenant's volumes", async () => {
    const tables = new Tables()
      .put("volumes", { ...volume, hypervisorTenant: "squatter" })
      .put("hypervisors", { ...hypervisorOf("squatter") });
    assert.equal((await ownerAfter(tables, hypervisorOf("acme"))).hypervisorTenant, "acme");
  });
});

const uuid = "5f0c2b1e-9f0a-4c0e-8c39-0d6a1c2b3d4e";
const vmId = vmIdFor(id, uuid);

function vmNamed(name: string, disks: readonly string[] = ["web-root", "web-data"]): VmDescription {
  return {
    externalId: uuid,
    name,
    state: "running",
    guestAgent: "connected",
    disks: disks.map((volumeExternalId, index) => ({ target: `vd${"abc"[index]}`, volumeExternalId })),
  };
}

describe("a discovery of VMs", () => {
  const volumes = ["web-root", "web-data", "shared"].map(volumeNamed);
  const rules = [
    { pattern: "web*", tenant: "acme" },
    { pattern: "shared", tenant: "bolt" },
  ];
  const hypervisor = { ...hypervisorOf("provider"), tenantRules: rules };
  const run = (tables: Tables, vms: readonly VmDescription[], row = hypervisor) =>
    discover(servicesOn(tables.put("hypervisors", { ...row }), undefined, hypervisorWith(volumes, vms)), row);
  const vmOf = (tables: Tables, tenant: string) => tables.get("vms", tenant, vmId) as Vm | undefined;

  it("gives a VM to a tenant by its name, and each of its disks by the name of the volume", async () => {
    const tables = new Tables();
    const found = await run(tables, [vmNamed("web", ["web-root", "shared"])]);
    assert.deepEqual(found?.vms, { found: 1, added: 1, missing: 0 });
    const { name, state, guestAgent, disks, hypervisorTenant, missing } = vmOf(tables, "acme") ?? assert.fail();
    assert.deepEqual(
      [name, state, guestAgent, hypervisorTenant, missing],
      ["web", "running", "connected", "provider", false],
    );
    assert.deepEqual(disks, [
      { target: "vda", volumeId: volumeIdFor(id, "web-root"), tenant: "acme", root: true },
      { target: "vdb", volumeId: volumeIdFor(id, "shared"), tenant: "bolt", root: false },
    ]);
  });

  it("leaves a VM that no rule fits to the administrators of the hypervisor", async () => {
    const tables = new Tables();
    await run(tables, [vmNamed("other")]);
    assert.equal(vmOf(tables, "provider")?.unassigned, true);
  });

  it("keeps a VM with its tenant and its id when it is renamed", async () => {
    const tables = new Tables();
    await run(tables, [vmNamed("web")]);
    const found = await run(tables, [vmNamed("other")]);
    assert.deepEqual(found?.vms, { found: 1, added: 0, missing: 0 });
    assert.equal(vmOf(tables, "acme")?.name, "other");
    assert.equal(vmOf(tables, "provider"), undefined);
  });

  it("marks a VM that is gone, and takes it back when it returns", async () => {
    const tables = new Tables();
    await run(tables, [vmNamed("web")]);
    assert.deepEqual((await run(tables, []))?.vms, { found: 0, added: 0, missing: 1 });
    assert.equal(vmOf(tables, "acme")?.missing, true);
    await run(tables, [vmNamed("web")]);
    assert.equal(vmOf(tables, "acme")?.missing, false);
  });

  it("takes no VM over from another tenant's hypervisor that is registered under the same id", async () => {
    const tables = new Tables();
    await run(tables, [vmNamed("web")]);
    const squatter = { ...hypervisorOf("squatter"), tenantRules: rules };
    assert.deepEqual((await run(tables, [vmNamed("web")], squatter))?.vms, { found: 1, added: 0, missing: 0 });
    assert.equal(vmOf(tables, "acme")?.hypervisorTenant, "provider");
  });

  it("writes down whether the hypervisor can hold file systems", async () => {
    const tables = new Tables();
    await run(tables, []);
    assert.equal(tables.get("hypervisors", "provider", id)?.quiesces, true);
  });

  it("tells of no VMs where the hypervisor has none", async () => {
    const found = await discover(servicesOn(new Tables().put("hypervisors", { ...hypervisor })), hypervisor);
    assert.ok(found && !("vms" in found));
  });
});
