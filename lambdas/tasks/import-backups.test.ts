import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { TransactionCanceledException } from "@aws-sdk/client-dynamodb";
import { KMSServiceException } from "@aws-sdk/client-kms";
import { GetCommand, type TransactWriteCommand } from "@aws-sdk/lib-dynamodb";
import { MemoryKeyService } from "../../test/support/memory-key-service.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { copyAll, never, planBackup, SparseVolume } from "../../test/support/repository.ts";
import type { ImportAnswer, ImportedPage, ImportRequest } from "../domain/backup-import.ts";
import { StoreRefused, Throttled } from "../domain/errors.ts";
import { dedupDomain, volumeIdFor } from "../domain/inventory.ts";
import type { KeyService } from "../repository/key-service.ts";
import { domainKeys } from "../repository/layout.ts";
import { publishRoot } from "../repository/publish.ts";
import { verifyBackup } from "../repository/verify.ts";
import type { Services } from "../services.ts";
import { importBackups } from "./import-backups.ts";

const hypervisorId = "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEY";
const volumeId = volumeIdFor(hypervisorId, "web-root");
const domain = dedupDomain("acme", volumeId);
const [first, second, third] = ["A", "B", "C"].map((last) => `snap_01JD7QXN8ZK4V1TQ3C5M9R2WE${last}`) as [
  string,
  string,
  string,
];

/** Publishes the backup of a small volume as the workflow does. */
async function publish(store: MemoryObjectStore, snapshotId: string, keys?: KeyService): Promise<void> {
  const target = { store, domain, snapshotId, jobId: snapshotId.replace(/^snap/, "job"), ...(keys && { keys }) };
  const plan = await planBackup(target, SparseVolume.of(Buffer.alloc(512, snapshotId)));
  await copyAll(target, plan, SparseVolume.of(Buffer.alloc(512, snapshotId)));
  await verifyBackup(target, { planHash: plan.planHash, until: never });
  const description = {
    tenant: "acme",
    volumeId,
    volumeExternalId: "web-root",
    hypervisorId,
    hypervisorTenant: "acme",
    createdAt: "2026-01-01T00:00:00.000Z",
  };
  await publishRoot(target, { planHash: plan.planHash, description });
}

/** Tables that know rows by key, and write what transactions set unless that must not be there. */
class Tables {
  readonly rows = new Map<string, unknown>();

  readonly client = {
    send: async (command: GetCommand | TransactWriteCommand) => {
      if (command instanceof GetCommand)
        return { Item: this.rows.get(`${command.input.TableName} ${JSON.stringify(command.input.Key)}`) };
      const updates = (command.input.TransactItems ?? []).flatMap(({ Update }) => Update ?? []);
      const CancellationReasons = updates.map(({ TableName, Key, ConditionExpression = "" }) => {
        const refused =
          /^attribute_not_exists/.test(ConditionExpression) && this.rows.has(`${TableName} ${JSON.stringify(Key)}`);
        return { Code: refused ? "ConditionalCheckFailed" : "None" };
      });
      if (CancellationReasons.some(({ Code }) => Code !== "None"))
        throw new TransactionCanceledException({ message: "", $metadata: {}, CancellationReasons });
      for (const { TableName, Key, ExpressionAttributeValues = {} } of updates) {
        const set = Object.entries(ExpressionAttributeValues).map(([name, value]) => [name.slice(1), value]);
        this.rows.set(`${TableName} ${JSON.stringify(Key)}`, { ...Key, ...Object.fromEntries(set) });
      }
      return {};
    },
  };
  readonly tables = { snapshots: "snapshots", volumes: "volumes", storeReferences: "references" };
}

function servicesOn(store: MemoryObjectStore, more: Partial<Services> = {}): Services {
  return {
    database: new Tables(),
    objectStore: async () => store,
    keyService: async () => undefined,
    logger: { info: () => undefined },
    now: () => new Date(0),
    ...more,
  } as unknown as Services;
}

const ofDefault: ImportRequest = { tenant: "acme", storeId: "default", limit: 100 };

function pageOf(answer: ImportAnswer): ImportedPage {
  assert.ok(!("problem" in answer), JSON.stringify(answer));
  return answer;
}

async function damage(store: MemoryObjectStore, snapshotId: string): Promise<void> {
  await store.put(domainKeys(domain).root(snapshotId), Buffer.from("damaged"));
}

describe("an import", () => {
  it("names damaged backups of the caller's volumes, wherever they stand among the others", async () => {
    const store = new MemoryObjectStore();
    for (const snapshotId of [first, second, third]) await publish(store, snapshotId);
    for (const snapshotId of [first, third]) await damage(store, snapshotId);
    const page = pageOf(await importBackups(servicesOn(store), ofDefault));
    assert.deepEqual(page.imported, [{ snapshotId: second, volumeId }]);
    assert.deepEqual(
      page.refused.map(({ snapshotId }) => snapshotId),
      [first, third],
    );
    const services = servicesOn(store);
    const { next } = pageOf(await importBackups(services, { ...ofDefault, limit: 2 }));
    const rest = pageOf(await importBackups(services, { ...ofDefault, ...(next && { after: next }) }));
    assert.deepEqual(
      rest.refused.map(({ snapshotId }) => snapshotId),
      [third],
    );
  });

  it("tells nobody else of them", async () => {
    const store = new MemoryObjectStore();
    for (const snapshotId of [first, second]) await publish(store, snapshotId);
    await damage(store, first);
    const page = pageOf(await importBackups(servicesOn(store), { ...ofDefault, tenant: "other" }));
    assert.deepEqual(page, { imported: [], known: 0, refused: [] });
  });

  it("makes no rows under ids that the API would not take", async () => {
    const store = new MemoryObjectStore();
    await publish(store, "somebodys-own");
    const page = pageOf(await importBackups(servicesOn(store), { ...ofDefault, storeId: "store_1" }));
    assert.deepEqual([page.imported, page.refused.map(({ snapshotId }) => snapshotId)], [[], ["somebodys-own"]]);
  });

  it("goes on where of all rows only the snapshot's was lost", async () => {
    const store = new MemoryObjectStore();
    await publish(store, first);
    const tables = new Tables();
    const key = { tenant: "acme", reference: `${first}#Image#default` };
    const row = `references ${JSON.stringify(key)}`;
    tables.rows.set(row, { ...key, state: "Creating" });
    const services = servicesOn(store, { database: tables as unknown as Services["database"] });
    assert.deepEqual(pageOf(await importBackups(services, ofDefault)).imported, [{ snapshotId: first, volumeId }]);
    assert.equal((tables.rows.get(row) as { state: string }).state, "Ready");
  });

  it("is not possible now, in words, while the key service or the tables ask to be called more slowly", async () => {
    const keys = new MemoryKeyService();
    const store = new MemoryObjectStore();
    await publish(store, first, keys);
    keys.outage = new Throttled("KMS does not serve the key now");
    const encrypted = servicesOn(store, { keyService: async () => keys });
    assert.deepEqual(await importBackups(encrypted, ofDefault), {
      problem: "KMS does not serve the key now",
      passes: true,
    });
    const fault = { name: "ThrottlingException", message: "Rate exceeded", $fault: "client", $metadata: {} } as const;
    const throttled = servicesOn(store, {
      objectStore: async () => {
        throw new KMSServiceException(fault);
      },
    });
    assert.deepEqual(await importBackups(throttled, ofDefault), { problem: "Rate exceeded", passes: true });
  });

  it("is not possible at all where the store refuses", async () => {
    const refusing = servicesOn(new MemoryObjectStore(), {
      objectStore: async () => {
        throw new StoreRefused("the bucket does not exist");
      },
    });
    assert.deepEqual(await importBackups(refusing, ofDefault), { problem: "the bucket does not exist", passes: false });
  });

  it("is not held back by the store's limits once its time is up", async ({ mock }) => {
    mock.timers.enable({ apis: ["Date"] });
    let isUp: (() => boolean) | undefined;
    const store = new MemoryObjectStore();
    const services = servicesOn(store, {
      objectStore: async (_tenant, _id, until) => {
        isUp = until;
        return store;
      },
    });
    await importBackups(services, ofDefault);
    assert.equal(isUp?.(), false);
    mock.timers.tick(20_000);
    assert.equal(isUp?.(), true);
  });
});
