import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { lockOf, retentionOf } from "./backup-lock.ts";

const objectLock = { mode: "compliance", days: 2 } as const;
const at = (time: string) => new Date(`2026-11-${time}Z`);

describe("the lock of a backup", () => {
  it("counts from the publishing, in whole seconds, whenever it is asked for", () => {
    const recorded = { queuedAt: at("19T08:00:00"), publishedAt: at("20T10:00:00.001") };
    const expected = { mode: "COMPLIANCE", until: "2026-11-22T10:00:01.000Z" };
    for (const now of ["20T10:00:01", "21T23:59:59"]) assert.deepEqual(lockOf(objectLock, recorded, at(now)), expected);
    assert.deepEqual(lockOf({ ...objectLock, mode: "governance" }, recorded, at("20T11:00:00"))?.mode, "GOVERNANCE");
    assert.deepEqual(retentionOf({ mode: "COMPLIANCE", until: expected.until }).until, at("22T10:00:01"));
  });

  it("counts from the job where an earlier one had published the same root", () => {
    const recorded = { queuedAt: at("25T08:00:00"), publishedAt: at("20T10:00:00") };
    assert.equal(lockOf(objectLock, recorded, at("25T09:00:00"))?.until, "2026-11-27T08:00:00.000Z");
  });

  it("is none once its date has passed: no store takes such a retention", () => {
    const recorded = { queuedAt: at("19T08:00:00"), publishedAt: at("20T10:00:00") };
    assert.equal(lockOf(objectLock, recorded, at("22T10:00:00")), undefined);
  });
});
