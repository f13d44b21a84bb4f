import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import type { Volume } from "../domain/inventory.ts";
import { parseSettings } from "../domain/settings.ts";
import type { SnapshotState } from "../domain/snapshot.ts";
import type { Services } from "../services.ts";
import { requireRoomInChain } from "./primary-chain.ts";
import { Problem } from "./problem.ts";

const hypervisorId = "hyp_1";
const volume = (id: string) => ({ tenant: "acme", id, hypervisorId, hypervisorTenant: "acme" }) as Volume;

/** What is refused with three copies allowed, where the volume `vol_1` has snapshots in these states. */
async function refusal(kind: string, states: readonly (readonly [SnapshotState, isOnPrimary: boolean])[]) {
  const memory = new MemoryDatabase().put("hypervisors", { tenant: "acme", id: hypervisorId, settings: { kind } });
  for (const [index, [state, isOnPrimary]] of states.entries()) {
    const id = `snap_${index}`;
    memory.put("snapshots", { tenant: "acme", id, volumeKey: "acme#vol_1", hypervisorId, state });
    const reference = { tenant: "acme", reference: `${id}#Primary#${hypervisorId}`, snapshotId: id };
    if (isOnPrimary) memory.put("storeReferences", reference);
  }
  const settings = parseSettings({ "primary.maxChain": "3" });
  const services = { database: memory.database, settings: async () => settings } as unknown as Services;
  try {
    await requireRoomInChain(services, [volume("vol_0"), volume("vol_1")]);
  } catch (error) {
    assert.ok(error instanceof Problem, String(error));
    return error;
  }
}

describe("a volume's chain on primary", () => {
  const full = [
    ["BackedUp", true],
    ["BackingUp", true],
    ["Allocated", false],
  ] as const;

  it("takes no more snapshots than primary.maxChain; those that were requested count", async () => {
    const problem = await refusal("kvm", full);
    assert.equal(problem?.status, 409);
    assert.deepEqual(problem?.extras.members, { volumeId: "vol_1", snapshots: ["snap_2", "snap_1", "snap_0"] });
    assert.match(problem?.message ?? "", /^vol_1 has 3 snapshots .* primary\.maxChain allows 3\./);
  });

  it("has room again when one has gone from primary", async () => {
    const gone = [["BackedUp", false], ...full.slice(1), ["Destroyed", false]] as const;
    assert.equal(await refusal("kvm", gone), undefined);
  });

  it("is none where copies stand by themselves", async () => {
    assert.equal(await refusal("file", full), undefined);
  });
});
