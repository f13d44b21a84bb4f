/** Flags and states of libvirt's API that a client of {@link procedures} needs, under the names of its reference. */

/** Of `virDomainEventID`, for `eventRegister`. */
export const eventId = { blockJob: 16 } as const;

export const domainState = {
  running: 1,
  blocked: 2,
  paused: 3,
  shutdown: 4,
  shutoff: 5,
  crashed: 6,
  suspended: 7,
} as const;

export const poolState = { inactive: 0, building: 1, running: 2, degraded: 3, inaccessible: 4 } as const;

/** For devices, memory and processors: what is changed. Both bits may be set. */
export const affect = { live: 1, config: 2 } as const;

/** With `affect.config`: the most that the VM may have. */
export const setVcpus = { maximum: 4 } as const;
export const setMemory = { maximum: 4 } as const;

export const domainXml = { secure: 1, inactive: 2 } as const;

export const snapshotCreate = {
  noMetadata: 1 << 2,
  diskOnly: 1 << 4,
  reuseExternal: 1 << 5,
  quiesce: 1 << 6,
  atomic: 1 << 7,
} as const;

export const blockCommit = { active: 1 << 2, bandwidthBytes: 1 << 4 } as const;

export const blockJobAbort = { async: 1, pivot: 1 << 1 } as const;

export const blockJobType = { pull: 1, copy: 2, commit: 3, activeCommit: 4, backup: 5 } as const;

export const blockJobStatus = { completed: 0, failed: 1, cancelled: 2, ready: 3 } as const;

export const undefine = { managedSave: 1, snapshotsMetadata: 1 << 1, nvram: 1 << 2 } as const;
