import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { dedupDomain, type Volume, volumeIdFor } from "./inventory.ts";
import type { Snapshot } from "./snapshot.ts";
import { describeSnapshot, readDescription } from "./snapshot-description.ts";

const hypervisorId = "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEY";
const volumeId = volumeIdFor(hypervisorId, "web-root.raw");
const domain = dedupDomain("acme", volumeId);

const snapshot: Snapshot = {
  tenant: "acme",
  id: "snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
  volumeId,
  hypervisorId,
  hypervisorTenant: "acme",
  storeId: "default",
  name: "nightly",
  description: "before the upgrade\nof everything",
  tags: { env: "prod", "a=b": "", __proto__x: "1" },
  state: "BackingUp",
  updateCount: 3,
  lastChange: "",
  jobId: "job_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
  attempt: 1,
  maxAttempts: 3,
  onBackupFailure: "delete",
  consistency: "crash",
  createdAt: "2026-01-02T03:04:05.000Z",
  updatedAt: "2026-01-02T03:04:06.000Z",
  createdOnPrimaryAt: "2026-01-02T03:04:06.000Z",
  readers: [],
};

const volume: Volume = {
  tenant: "acme",
  id: volumeId,
  hypervisorId,
  hypervisorTenant: "acme",
  externalId: "web-root.raw",
  name: "web-root.raw",
  sizeBytes: 1,
  inUse: false,
  backingUp: 1,
  unassigned: false,
  missing: false,
  discoveredAt: "2026-01-01T00:00:00.000Z",
};

describe("the description of a snapshot", () => {
  it("is read back as it was written", () => {
    const read = readDescription({ ...describeSnapshot(snapshot, volume, "file"), storedBytes: "17" }, domain);
    assert.deepEqual(read, {
      tenant: "acme",
      volumeId,
      volumeName: "web-root.raw",
      volumeExternalId: "web-root.raw",
      hypervisorId,
      hypervisorTenant: "acme",
      hypervisorKind: "file",
      name: "nightly",
      description: "before the upgrade\nof everything",
      consistency: "crash",
      createdAt: snapshot.createdAt,
      createdOnPrimaryAt: snapshot.createdOnPrimaryAt,
      storedBytes: 17,
      tags: snapshot.tags,
    });
  });

  it("holds no more than a root has room for, whatever the tags are", () => {
    const tag = fc.tuple(
      fc.string({ minLength: 1, maxLength: 128, unit: "binary" }),
      fc.string({ maxLength: 256, unit: "binary" }),
    );
    fc.assert(
      fc.property(fc.array(tag, { maxLength: 50 }), (tags) => {
        const texts = describeSnapshot({ ...snapshot, tags: Object.fromEntries(tags) }, volume, "file");
        assert.ok(Buffer.byteLength(JSON.stringify(texts)) <= 48_000);
      }),
      { numRuns: 50 },
    );
    const large = Array.from({ length: 50 }, (_, at) => [`${at}`, "\u{1F600}".repeat(256)]);
    const texts = describeSnapshot({ ...snapshot, tags: Object.fromEntries(large) }, volume, "file");
    const kept = Object.keys(texts).filter((key) => key.startsWith("tag:")).length;
    assert.ok(kept > 0 && kept < 50);
    assert.equal(texts.tagsLeftOut, String(50 - kept));
  });

  const texts = describeSnapshot(snapshot, volume, "file");
  for (const [what, changed, place, expected] of [
    ["without any text", {}, domain, /no description/],
    ["in another domain", texts, "0".repeat(32), /another volume/],
    ["that names another tenant", { ...texts, tenant: "other" }, domain, /another volume/],
    ["whose volume is another's", { ...texts, volumeExternalId: "x" }, domain, /contradicts itself/],
    ["with a time that is none", { ...texts, createdAt: "yesterday" }, domain, /createdAt/],
    ["that lacks a field", { tenant: "acme", createdAt: texts.createdAt ?? "" }, domain, /volumeId.*hypervisorId/],
  ] as const)
    it(`${what} is answered with a sentence`, () => {
      const read = readDescription(changed, place);
      assert.ok(typeof read === "string", JSON.stringify(read));
      assert.match(read, expected);
    });

  it("is written without what rows that are gone would tell", () => {
    const bare = describeSnapshot(snapshot, undefined, undefined);
    assert.ok(!("volumeName" in bare) && !("hypervisorKind" in bare));
    assert.equal(bare.volumeId, volumeId);
  });
});
