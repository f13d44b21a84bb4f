import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ConditionalCheckFailedException, TransactionCanceledException } from "@aws-sdk/client-dynamodb";
import { KMSServiceException } from "@aws-sdk/client-kms";
import { GetCommand, type TransactWriteCommand, UpdateCommand } from "@aws-sdk/lib-dynamodb";
import { MemoryKeyService } from "../../test/support/memory-key-service.ts";
import { MemoryObjectStore, type StoreOperation } from "../../test/support/memory-object-store.ts";
import { copyAll, never, planBackup, SparseVolume } from "../../test/support/repository.ts";
import type { ImportAnswer, ImportedPage, ImportRequest } from "../domain/backup-import.ts";
import { StoreRefused, Throttled } from "../domain/errors.ts";
import { dedupDomain, volumeIdFor } from "../domain/inventory.ts";
import type { Snapshot } from "../domain/snapshot.ts";
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
    send: async (command: GetCommand | UpdateCommand | TransactWriteCommand) => {
      if (command instanceof GetCommand)
        return { Item: this.rows.get(`${command.input.TableName} ${JSON.stringify(command.input.Key)}`) };
      if (command instanceof UpdateCommand) return this.#extendLock(command.input);
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

  /** As `recordLongerLock` asks for it. */
  #extendLock({ TableName, Key, ExpressionAttributeValues: values = {} }: UpdateCommand["input"]): object {
    const key = `${TableName} ${JSON.stringify(Key)}`;
    const row = this.rows.get(key) as Record<string, string> | undefined;
    const { ":lockedUntil": until, ":backedUp": state, ":storeId": storeId } = values;
    const isShorter = row?.lockedUntil === undefined || row.lockedUntil < until;
    if (row?.state !== state || row?.storeId !== storeId || !isShorter)
      throw new ConditionalCheckFailedException({ message: "", $metadata: {} });
    this.rows.set(key, { ...row, lockedUntil: until });
    return {};
  }

  snapshot(id: string): Snapshot | undefined {
    return this.rows.get(`snapshots ${JSON.stringify({ tenant: "acme", id })}`) as Snapshot | undefined;
  }

  readonly tables = { snapshots: "snapshots", volumes: "volumes", storeReferences: "references" };
}

function servicesOn(store: MemoryObjectStore, more: Partial<Services> = {}): Services {
  return {
    database: new Tables(),
    objectStore: async () => store,
    keyService: async () => undefined,
    logger: { info: () => undefined, warn: () => undefined },
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

describe("an import from a store with Object Lock", () => {
  const ofVault: ImportRequest = { tenant: "acme", storeId: "store_1", limit: 100 };
  const root = (snapshotId: string) => domainKeys(domain).root(snapshotId);
  const retain = (store: MemoryObjectStore, snapshotId: string, until: string) =>
    store.retain(root(snapshotId), { mode: "COMPLIANCE", until: new Date(until) });
  const soon = "2100-01-01T00:00:00.000Z";
  const later = "2100-02-01T00:00:00.000Z";

  /** A store with backups, the rows to be, and what is asked of the store about locks and warned of. */
  async function vault(snapshotIds: readonly string[], before: (operation: StoreOperation) => void = () => undefined) {
    const asked: StoreOperation[] = [];
    const warnings: object[] = [];
    const store = new MemoryObjectStore({
      objectLock: true,
      before: (operation) => {
        if (operation === "retainedUntil" || operation === "objectLockEnabled") asked.push(operation);
        before(operation);
      },
    });
    for (const snapshotId of snapshotIds) await publish(store, snapshotId);
    const tables = new Tables();
    const logger = { info: () => undefined, warn: (_: string, fields: object) => warnings.push(fields) };
    const services = servicesOn(store, { database: tables, logger } as unknown as Partial<Services>);
    return { store, tables, services, asked, warnings };
  }

  it("tells how long each backup is locked, and asks once whether the store locks at all", async () => {
    const { store, tables, services, asked } = await vault([first, second]);
    await retain(store, first, soon);
    assert.equal(pageOf(await importBackups(services, ofVault)).imported.length, 2);
    assert.equal(tables.snapshot(first)?.lockedUntil, soon);
    assert.ok(!("lockedUntil" in tables.snapshot(second)!));
    assert.deepEqual(asked, ["objectLockEnabled", "retainedUntil", "retainedUntil"]);
  });

  it("takes up a lock that was extended since, and never goes back", async () => {
    const { store, tables, services } = await vault([first, second]);
    await retain(store, second, soon);
    await importBackups(services, ofVault);
    for (const snapshotId of [first, second]) await retain(store, snapshotId, later);
    assert.equal(pageOf(await importBackups(services, ofVault)).known, 2);
    assert.deepEqual(
      [first, second].map((id) => tables.snapshot(id)?.lockedUntil),
      [later, later],
    );
    const longest = "2100-03-01T00:00:00.000Z";
    Object.assign(tables.snapshot(first)!, { lockedUntil: longest });
    assert.equal(pageOf(await importBackups(services, ofVault)).known, 2);
    assert.equal(tables.snapshot(first)?.lockedUntil, longest);
  });

  it("changes no row of a backup in another store", async () => {
    const { store, tables, services } = await vault([first]);
    await importBackups(services, ofVault);
    await retain(store, first, later);
    assert.equal(pageOf(await importBackups(services, { ...ofVault, storeId: "store_2" })).known, 1);
    assert.ok(!("lockedUntil" in tables.snapshot(first)!));
  });

  it("goes on without the right to read locks, and says so once", async () => {
    for (const refused of ["objectLockEnabled", "retainedUntil"]) {
      const { tables, services, asked, warnings } = await vault([first, second], (operation) => {
        if (operation === refused) throw new StoreRefused("the credentials do not allow it");
      });
      assert.equal(pageOf(await importBackups(services, ofVault)).imported.length, 2);
      assert.ok(!("lockedUntil" in tables.snapshot(first)!));
      assert.equal(asked.filter((operation) => operation === refused).length, 1);
      assert.equal(warnings.length, 1);
    }
  });

  it("misses no lock where the store fails for a moment", async () => {
    let isDown = true;
    const { store, tables, services } = await vault([first], (operation) => {
      if (operation === "retainedUntil" && isDown) throw new Throttled("the store asks for fewer requests");
    });
    await retain(store, first, soon);
    assert.deepEqual(await importBackups(services, ofVault), {
      problem: "the store asks for fewer requests",
      passes: true,
    });
    assert.equal(tables.snapshot(first), undefined);
    isDown = false;
    await importBackups(services, ofVault);
    assert.equal(tables.snapshot(first)?.lockedUntil, soon);
  });

  it("asks nothing of the stack's own bucket, where there are no locks and no right to ask", async () => {
    const { services, asked } = await vault([first]);
    assert.equal(pageOf(await importBackups(services, ofDefault)).imported.length, 1);
    assert.deepEqual(asked, []);
  });
});
