import assert from "node:assert/strict";
import { test } from "node:test";
import { resource, resourcesOf, templateWith } from "./synthesised.ts";

const template = templateWith();
const lasting = ["Snapshots", "StoreReferences", "Jobs", "Volumes", "Vms", "Hypervisors", "Stores", "Pools"];
const expendable = ["Progress", "Requests", "Rates"];

function table(name: string) {
  return resource(template, "AWS::DynamoDB::Table", `Tables${name}`);
}

test("there are these tables and no others", () => {
  assert.equal(Object.keys(resourcesOf(template, "AWS::DynamoDB::Table")).length, lasting.length + expendable.length);
});

for (const name of lasting)
  test(`${name} survives the stack, refuses deletion and can be put back to any second`, () => {
    const { DeletionPolicy, UpdateReplacePolicy, Properties } = table(name);
    assert.equal(DeletionPolicy, "Retain");
    assert.equal(UpdateReplacePolicy, "Retain");
    assert.equal(Properties.DeletionProtectionEnabled, true);
    assert.deepEqual(Properties.PointInTimeRecoverySpecification, { PointInTimeRecoveryEnabled: true });
  });

for (const name of expendable)
  test(`${name} goes with the stack and its rows expire`, () => {
    const { DeletionPolicy, Properties } = table(name);
    assert.equal(DeletionPolicy, "Delete");
    assert.deepEqual(Properties.TimeToLiveSpecification, { AttributeName: "expiresAt", Enabled: true });
  });

for (const name of [...lasting, ...expendable])
  test(`${name} is encrypted and paid by request`, () => {
    const { Properties } = table(name);
    assert.deepEqual(Properties.SSESpecification, { SSEEnabled: true });
    assert.equal(Properties.BillingMode, "PAY_PER_REQUEST");
  });

test("changes of snapshots and jobs are followed with what was there before", () => {
  const streamed = [...lasting, ...expendable].filter((name) => table(name).Properties.StreamSpecification);
  assert.deepEqual(streamed, ["Snapshots", "Jobs"]);
  for (const name of streamed)
    assert.deepEqual(table(name).Properties.StreamSpecification, { StreamViewType: "NEW_AND_OLD_IMAGES" });
});

test("rows of ended snapshots and jobs expire, others never", () => {
  const expiring = lasting.filter((name) => table(name).Properties.TimeToLiveSpecification);
  assert.deepEqual(expiring, ["Snapshots", "Jobs"]);
});

test("keys and indexes are the ones that the code queries", () => {
  const keys = Object.fromEntries(
    [...lasting, ...expendable].map((name) => {
      const { Properties } = table(name);
      const indexes = (Properties.GlobalSecondaryIndexes ?? []) as { IndexName: string; KeySchema: KeySchema }[];
      return [
        name,
        [
          attributes(Properties.KeySchema as KeySchema),
          ...indexes.map((index) => `${index.IndexName}: ${attributes(index.KeySchema)}`),
        ],
      ];
    }),
  );
  assert.deepEqual(keys, {
    Snapshots: [
      "tenant, id",
      "by-volume: volumeKey, id",
      "by-vm: vmKey, id",
      "by-state: unsettled, id",
      "by-check: checkQueue, checkedAt",
    ],
    StoreReferences: ["tenant, reference"],
    Jobs: ["tenant, id", "queue: queue, queuePosition", "open: openKind, id"],
    Volumes: ["tenant, id", "by-hypervisor: hypervisorId, id", "busy: busy, id", "by-protection: protection, id"],
    Vms: ["tenant, id", "by-hypervisor: hypervisorId, id"],
    Hypervisors: ["tenant, id", "tended: tended, id"],
    Stores: ["tenant, id"],
    Pools: ["id"],
    Progress: ["jobId, part"],
    Requests: ["request"],
    Rates: ["meter"],
  });
});

test("with retain.data=false everything goes with the stack", () => {
  for (const { DeletionPolicy, Properties } of Object.values(
    resourcesOf(templateWith({ "retain.data": "false" }), "AWS::DynamoDB::Table"),
  )) {
    assert.equal(DeletionPolicy, "Delete");
    assert.equal(Properties.DeletionProtectionEnabled, false);
  }
});

type KeySchema = readonly { readonly AttributeName: string }[];

function attributes(schema: KeySchema): string {
  return schema.map(({ AttributeName }) => AttributeName).join(", ");
}
