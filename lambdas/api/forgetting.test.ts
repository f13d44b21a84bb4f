import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { DeleteCommand, GetCommand, QueryCommand, type UpdateCommand } from "@aws-sdk/lib-dynamodb";
import type { HypervisorRow } from "../domain/inventory.ts";
import type { Services } from "../services.ts";
import { forgetHypervisor } from "./forgetting.ts";

type Row = Record<string, unknown>;
type Command = GetCommand | QueryCommand | DeleteCommand | UpdateCommand;

const hypervisor: HypervisorRow = {
  tenant: "acme",
  id: "hyp_1",
  name: "lab",
  settings: { kind: "file", directory: "/srv" },
  tenantRules: [],
  createdAt: "2026-01-01T00:00:00.000Z",
};

/** Rows of a hypervisor with a VM and two volumes, of each a snapshot without a backup. After so many deletions the caller is dead. */
class Tables {
  readonly tables = {
    hypervisors: "hypervisors",
    volumes: "volumes",
    vms: "vms",
    snapshots: "snapshots",
    storeReferences: "references",
    jobs: "jobs",
  };
  deletions = Number.POSITIVE_INFINITY;
  readonly rows = new Map<string, Row>();

  constructor() {
    this.#put("hypervisors", { ...hypervisor });
    this.#put("vms", { tenant: "acme", id: "vm_1", hypervisorId: "hyp_1", hypervisorTenant: "acme" });
    for (const name of ["a", "b"]) {
      const [volume, snapshot] = [`vol_${name}`, `snap_${name}`];
      const externalId = `/srv/${name}`;
      this.#put("volumes", { tenant: "acme", id: volume, hypervisorId: "hyp_1", hypervisorTenant: "acme", externalId });
      this.#put("snapshots", {
        ...{ tenant: "acme", id: snapshot, volumeId: volume, volumeKey: `acme#${volume}` },
        ...{ state: "CreatedOnPrimary", jobId: "job_1" },
      });
      this.#put("references", {
        ...{ tenant: "acme", reference: `${snapshot}#Primary#hyp_1`, snapshotId: snapshot },
        ...{ role: "Primary", storeId: "hyp_1", physicalBytes: 512 },
      });
      this.#put("references", { tenant: "acme", reference: `vm-definition#${snapshot}`, definition: "" });
    }
  }

  #put(table: string, row: Row): void {
    this.rows.set(this.#key(table, row), { ...row, table });
  }

  #key(table: string, { tenant, id, reference }: Row): string {
    return `${table} ${tenant} ${id ?? reference}`;
  }

  readonly client = {
    send: async (command: Command) => {
      const { TableName = "" } = command.input;
      if (command instanceof QueryCommand) {
        const asked = Object.values(command.input.ExpressionAttributeValues ?? {});
        const rows = [...this.rows.values()].filter(({ table }) => table === TableName);
        if (TableName !== "references")
          return {
            Items: rows.filter((row) => asked.some((one) => one === row.hypervisorId || one === row.volumeKey)),
          };
        return {
          Items: rows.filter(({ reference }) => asked.some((one) => String(reference).startsWith(String(one)))),
        };
      }
      const key = this.#key(TableName, command.input.Key ?? {});
      if (command instanceof GetCommand) return { Item: this.rows.get(key) };
      if (!(command instanceof DeleteCommand)) return {};
      if (this.deletions-- <= 0) throw new Error("dead");
      this.rows.delete(key);
      return {};
    },
  };
}

describe("forgetting a hypervisor", () => {
  it("is finished by a repetition, wherever the first one died", async () => {
    for (let deletions = 0; ; deletions++) {
      const database = new Tables();
      const services = { database, now: () => new Date(0) } as unknown as Services;
      database.deletions = deletions;
      const first = await forgetHypervisor(services, hypervisor, { force: true }).catch(
        (error: Error) => error.message,
      );
      if (first !== "dead") break;
      database.deletions = Number.POSITIVE_INFINITY;
      await forgetHypervisor(services, hypervisor, { force: true });
      assert.deepEqual([...database.rows.keys()], [], `died after ${deletions} deletions`);
    }
  });

  it("tells what it forgot", async () => {
    const services = { database: new Tables(), now: () => new Date(0) } as unknown as Services;
    assert.deepEqual(await forgetHypervisor(services, hypervisor, { force: true }), {
      snapshots: ["snap_a", "snap_b"],
      volumes: 2,
      bytesLeftBehind: { primary: 1024, stored: 0 },
      copiesLeftOf: ["/srv/a", "/srv/b"],
    });
  });
});
