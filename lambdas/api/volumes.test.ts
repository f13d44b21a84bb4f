import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { newId } from "../domain/ids.ts";
import { parseSettings } from "../domain/settings.ts";
import type { SnapshotState } from "../domain/snapshot.ts";
import type { Services } from "../services.ts";
import type { Caller } from "./http.ts";
import { Problem } from "./problem.ts";
import { createSnapshotBody } from "./request-schemas.ts";
import type { VolumeRepresentation } from "./response-schemas.ts";
import { createSnapshot } from "./snapshots.ts";
import { protectVolume, unprotectVolume } from "./volumes.ts";

const id = newId("volume");
const operator: Caller = { tenant: "acme", role: "operator" };

class Lab {
  readonly memory = new MemoryDatabase();

  constructor(more: object = {}) {
    const hypervisor = { hypervisorId: "hyp_1", hypervisorTenant: "acme", externalId: "/srv/disk", name: "disk" };
    const now = { backingUp: 0, inUse: true, missing: false, unassigned: false, discoveredAt: "", sizeBytes: 1 };
    this.memory.put("volumes", { tenant: "acme", id, ...hypervisor, ...now, ...more });
  }

  add(snapshotId: string, state: SnapshotState): this {
    const reference = { tenant: "acme", snapshotId, reference: `${snapshotId}#Primary#hyp_1` };
    this.memory
      .put("snapshots", { tenant: "acme", id: snapshotId, volumeKey: `acme#${id}`, hypervisorId: "hyp_1", state })
      .put("storeReferences", reference);
    return this;
  }

  get services(): Services {
    const settings = parseSettings({});
    return {
      database: this.memory.database,
      settings: async () => settings,
      now: () => new Date("2026-01-01T12:00:00.000Z"),
    } as unknown as Services;
  }

  async ask(act: typeof unprotectVolume | typeof protectVolume, caller = operator) {
    const { status, body } = await act(this.services, { caller, id, body: {} } as never);
    return { status, volume: body as VolumeRepresentation };
  }

  async refusal(asking: Promise<unknown>): Promise<Problem> {
    const error = await asking.then(
      () => assert.fail("it was not refused"),
      (reason: unknown) => reason,
    );
    return error instanceof Problem ? error : assert.fail(String(error));
  }
}

describe("taking a volume out of protection", () => {
  it("is accepted, also twice, and taken back", async () => {
    const lab = new Lab().add("snap_1", "BackedUp").add("snap_2", "Destroying");
    for (const _ of [1, 2]) {
      const { status, volume } = await lab.ask(unprotectVolume);
      assert.deepEqual([status, volume.protection], [202, "ending"]);
    }
    for (const _ of [1, 2]) {
      const { status, volume } = await lab.ask(protectVolume);
      assert.deepEqual([status, volume.protection], [200, "protected"]);
    }
  });

  it("is refused while snapshots have no backup, and names them", async () => {
    const lab = new Lab().add("snap_1", "BackedUp").add("snap_2", "Error").add("snap_3", "BackingUp");
    const { kind, status, message, extras } = await lab.refusal(lab.ask(unprotectVolume));
    assert.deepEqual([kind, status], ["snapshot-is-not-backed-up", 409]);
    assert.match(message, /: snap_3 \(BackingUp\), snap_2 \(Error\)\. Wait for their backups, or delete them\.$/);
    assert.deepEqual(extras.members, { volumeId: id, snapshots: ["snap_3", "snap_2"] });
    assert.equal(lab.memory.get("volumes", { tenant: "acme", id })?.protection, undefined);
  });

  for (const [why, more, kind] of [
    ["missing", { missing: true }, "volume-is-missing"],
    ["being restored", { restoringJobId: "job_1" }, "volume-is-restoring"],
  ] as const)
    it(`is refused while it is ${why}`, async () => {
      const lab = new Lab(more);
      assert.equal((await lab.refusal(lab.ask(unprotectVolume))).kind, kind);
    });

  it("and into it again is nobody else's business", async () => {
    const lab = new Lab();
    for (const act of [unprotectVolume, protectVolume])
      assert.equal((await lab.refusal(lab.ask(act, { tenant: "other", role: "admin" }))).status, 404);
  });

  it("refuses snapshots in words", async () => {
    const lab = new Lab();
    await lab.ask(unprotectVolume);
    const body = createSnapshotBody.parse({});
    const request = { caller: operator, id, body, method: "POST", path: "", idempotencyKey: undefined };
    const { kind, status, message } = await lab.refusal(createSnapshot(lab.services, request as never));
    assert.deepEqual([kind, status], ["volume-is-unprotected", 409]);
    assert.match(message, new RegExp(`POST /v1/volumes/${id}/protect`));
  });

  it("cannot be taken back in the middle of a merge", async () => {
    const lab = new Lab({ protection: "ending", heldFor: "unprotect", heldUntil: "2026-01-01T12:10:00.000Z" });
    await assert.rejects(lab.ask(protectVolume), /is being merged; try again/);
  });
});
