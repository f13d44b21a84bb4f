import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ConditionalCheckFailedException } from "@aws-sdk/client-dynamodb";
import { GetCommand, QueryCommand, type UpdateCommand } from "@aws-sdk/lib-dynamodb";
import { type HypervisorRow, volumeIdFor } from "../domain/inventory.ts";
import type { Services } from "../services.ts";
import { discover } from "./discovery.ts";

const id = "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEY";
const volumeId = volumeIdFor(id, "web-root");

type Row = Record<string, unknown>;

/** The rows of volumes and hypervisors; a condition of an update is that of discovered volumes. */
class Tables {
  readonly tables = { volumes: "volumes", hypervisors: "hypervisors" };
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
        return { Items: [...this.rows.values()].filter(({ hypervisorId }) => hypervisorId === id) };
      const row = this.rows.get(this.#key(TableName, command.input.Key ?? {}));
      if (command instanceof GetCommand) return { Item: row };
      const { Key = {}, ExpressionAttributeValues: values = {}, ConditionExpression } = command.input;
      const allowed = [values[":hypervisorTenant"], values[":insteadOf"]];
      if (TableName === "volumes" && ConditionExpression && row && !allowed.includes(row.hypervisorTenant))
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

const listVolumes = async function* () {
  yield { externalId: "web-root", name: "web-root", sizeBytes: 512, inUse: false };
};

function servicesOn(tables: Tables, warn: (text: string) => void = () => undefined): Services {
  return {
    database: tables,
    hypervisor: async () => ({ listVolumes }),
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
