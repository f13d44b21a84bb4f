/** Virtual machines, as discovery found them. Pure. */
import { derivedId } from "./ids.ts";
import { type HypervisorRow, type Volume, volumeIdFor } from "./inventory.ts";

/** `stopping`: it was asked to stop, and had not done so when it was looked at last. Only what asked can tell; a discovery finds it `running`. */
export const vmStates = ["running", "stopping", "stopped", "paused", "other"] as const;
export type VmState = (typeof vmStates)[number];

/** States of a row with which a VM may be stopped by now. One that is not is found out by who looks at it. */
export const perhapsStopped = ["stopped", "stopping"] as const satisfies readonly VmState[];

export function isPerhapsStopped({ state }: Pick<Vm, "state">): boolean {
  return perhapsStopped.some((one) => one === state);
}

/** Whether the agent inside the guest answers, which flushes and holds its file systems. */
export const guestAgentStates = ["connected", "absent", "unknown"] as const;
export type GuestAgent = (typeof guestAgentStates)[number];

export interface VmDisk {
  /** As the VM's host names it, `vda`. */
  readonly target: string;
  readonly volumeId: string;
  /** Whose the volume is: rules go by the names of volumes, so that it may be another tenant than the VM's. */
  readonly tenant: string;
  /** Whether the VM boots from it: the first in the hypervisor's order. */
  readonly root: boolean;
}

/** A disk with its volume as it is now, seen by somebody who asks. */
export interface DiskOfVm extends VmDisk {
  /** Absent when it is not known (any more). */
  readonly volume?: Volume;
  /** Whether the caller may know of the volume. */
  readonly visible: boolean;
}

export interface Vm {
  readonly tenant: string;
  readonly id: string;
  readonly hypervisorId: string;
  readonly hypervisorTenant: string;
  /** The hypervisor's own id of the VM. */
  readonly externalId: string;
  readonly name: string;
  readonly state: VmState;
  readonly guestAgent: GuestAgent;
  readonly disks: readonly VmDisk[];
  /** No rule gave it a tenant: only administrators of the hypervisor's tenant see it. */
  readonly unassigned: boolean;
  /** The last discovery did not find it any more. */
  readonly missing: boolean;
  readonly discoveredAt: string;
  /** The operation that is being done to it, and until when that counts (ISO 8601) if nobody ends it. */
  readonly heldFor?: string;
  readonly heldUntil?: string;
}

/** {@link derivedId} of a VM. */
export function vmIdFor(hypervisorId: string, externalId: string): string {
  return derivedId("vm", hypervisorId, externalId);
}

/** A VM as its hypervisor describes it. The first disk is the one that it boots from. */
interface FoundVm extends Pick<Vm, "externalId" | "name" | "state" | "guestAgent"> {
  readonly disks: readonly { readonly target: string; readonly volumeExternalId: string }[];
}

/** A VM's row without what rules and time say. `tenantOf` is by volumes' ids. */
export function vmRow(
  hypervisor: Pick<HypervisorRow, "tenant" | "id">,
  { externalId, name, state, guestAgent, disks }: FoundVm,
  tenantOf: (volumeId: string) => string,
) {
  return {
    id: vmIdFor(hypervisor.id, externalId),
    hypervisorId: hypervisor.id,
    hypervisorTenant: hypervisor.tenant,
    externalId,
    name,
    state,
    guestAgent,
    disks: disks.map(({ target, volumeExternalId }, index): VmDisk => {
      const volumeId = volumeIdFor(hypervisor.id, volumeExternalId);
      return { target, volumeId, tenant: tenantOf(volumeId), root: index === 0 };
    }),
  };
}

/** Whether an operation still holds this VM or volume back. `now` is ISO 8601 in UTC, as all times of rows. */
export function isHeld({ heldUntil }: { readonly heldUntil?: string }, now: string): boolean {
  return heldUntil !== undefined && heldUntil > now;
}
