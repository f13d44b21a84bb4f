import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  type DiskBackingUp,
  disksBackingUp,
  fieldsOf,
  namesFiles,
  permissionIn,
  permissionWhile,
  permissionWhileRestored,
  roleOf,
  type VmOperation,
  vmOperations,
  volumeOperationRules,
} from "./operations.ts";
import { type VmState, vmStates } from "./vm.ts";

const yes = true;
const no = false;

/** What is allowed on a VM while that disk is BackingUp: the one that the operation names, the root disk, another one. */
const allowed: Record<VmOperation, Record<DiskBackingUp, boolean>> = {
  start: { namedDisk: yes, rootDisk: yes, dataDisk: yes },
  stop: { namedDisk: yes, rootDisk: yes, dataDisk: yes },
  reboot: { namedDisk: yes, rootDisk: yes, dataDisk: yes },
  destroy: { namedDisk: yes, rootDisk: no, dataDisk: yes },
  reinstall: { namedDisk: yes, rootDisk: no, dataDisk: yes },
  "attach-iso": { namedDisk: yes, rootDisk: yes, dataDisk: yes },
  "detach-iso": { namedDisk: yes, rootDisk: no, dataDisk: no },
  "attach-disk": { namedDisk: yes, rootDisk: yes, dataDisk: yes },
  "detach-disk": { namedDisk: no, rootDisk: yes, dataDisk: yes },
  "change-cpu": { namedDisk: yes, rootDisk: yes, dataDisk: yes },
  "change-memory": { namedDisk: yes, rootDisk: yes, dataDisk: yes },
};

describe("while a snapshot is BackingUp", () => {
  for (const operation of vmOperations)
    for (const disk of disksBackingUp) {
      const expected = allowed[operation][disk];
      it(`${operation} is ${expected ? "allowed" : "refused"} when it is of the ${disk}`, () => {
        const permission = permissionWhile(operation, disk);
        if (expected) assert.equal(permission, true);
        else
          assert.ok(typeof permission === "string" && / while .* being backed up$/.test(permission), `${permission}`);
      });
    }

  it("a snapshot of the same volume is allowed", () => assert.equal(volumeOperationRules.snapshot, true));
});

const statesOf: Partial<Record<VmOperation, readonly VmState[]>> = {
  reboot: ["running", "stopping", "paused", "other"],
  reinstall: ["stopped"],
};

describe("in a state", () => {
  for (const operation of vmOperations)
    for (const state of vmStates) {
      const expected = (statesOf[operation] ?? vmStates).includes(state);
      it(`${operation} is ${expected ? "allowed" : "refused"} of a VM that is ${state}`, () => {
        const permission = permissionIn(operation, state);
        assert.ok(
          expected ? permission === true : /^it needs a VM that is (running|stopped)$/.test(String(permission)),
        );
      });
    }
});

describe("while a disk is restored in place", () => {
  it("its VM is not started, and it stays where it is; all else is allowed", () => {
    const refused = vmOperations.flatMap((operation) =>
      disksBackingUp
        .filter((disk) => permissionWhileRestored(operation, disk) !== true)
        .map((disk) => `${operation} ${disk}`),
    );
    assert.deepEqual(refused, ["start rootDisk", "start dataDisk", "detach-disk namedDisk", "reinstall rootDisk"]);
  });
});

describe("an operation", () => {
  it("that names a disk sees it as that one, also where it is the root disk", () => {
    assert.equal(roleOf({ volumeId: "vol_1", root: true }, "vol_1"), "namedDisk");
    assert.equal(roleOf({ volumeId: "vol_1", root: true }, "vol_2"), "rootDisk");
    assert.equal(roleOf({ volumeId: "vol_1", root: false }), "dataDisk");
  });

  it("names files of the hypervisor where it takes an ISO or an image", () => {
    assert.deepEqual(vmOperations.filter(namesFiles), ["attach-iso", "reinstall"]);
  });

  it("that has a rule for the disk that it names takes a volume, and no other does", () => {
    assert.deepEqual(
      vmOperations.filter((operation) => fieldsOf(operation).includes("volumeId")),
      ["attach-disk", "detach-disk"],
    );
  });
});
