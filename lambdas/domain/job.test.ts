import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { executionInput, executionName, type Job, membersOf, newJob } from "./job.ts";

const snapshot = { tenant: "acme", id: "snap_2", volumeId: "vol_2" };
const policy = { maxAttempts: 3, retryIntervalSeconds: 1, quiesce: "preferred" } as const;
const alone: Job = { ...newJob("job_2", "create-snapshot", snapshot, policy, "2026-01-01T00:00:00.000Z"), open: true };
const members = [
  { jobId: "job_1", snapshotId: "snap_1" },
  { jobId: "job_2", snapshotId: "snap_2" },
];
const second: Job = { ...alone, group: { id: "group_1", members } };
const first: Job = { ...second, id: "job_1", snapshotId: "snap_1", volumeId: "vol_1" };

describe("the execution of a job", () => {
  it("is named after it and creates its snapshot", () => {
    assert.equal(executionName(alone), "job_2");
    assert.deepEqual(membersOf(alone), [{ jobId: "job_2", snapshotId: "snap_2" }]);
    assert.deepEqual(executionInput(alone), { tenant: "acme", jobId: "job_2", snapshotId: "snap_2", policy });
  });

  it("is one for all jobs of a group: the same name and the same input, whichever starts it", () => {
    assert.equal(executionName(second), executionName(first));
    assert.deepEqual(executionInput(second), executionInput(first));
    assert.deepEqual(executionInput(second), { tenant: "acme", jobId: "job_1", snapshotId: "snap_1", policy });
    assert.deepEqual(membersOf(second), members);
  });
});
