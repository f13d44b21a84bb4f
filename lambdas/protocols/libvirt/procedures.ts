/**
 * The calls that this client knows: their numbers and layouts, as libvirt's wire protocol has had them since at least version 3.0. Fields
 * have the names of libvirt's API reference, where their flags and units are explained.
 */
import { int, list, nothing, optional, struct, text, uhyper, uint, uuid, type Value, type XdrType } from "./xdr.ts";

/** Bounds of the protocol. */
const string = text(4 * 1024 * 1024);
const maxList = 16_384;
const maxMountpoints = 256;
const maxLoginTypes = 20;

/** A VM. `id` is -1 while it does not run. */
export const domain = struct({ name: string, uuid, id: int });
export const snapshot = struct({ name: string, domain });
export const pool = struct({ name: string, uuid });
export const volume = struct({ pool: string, name: string, key: string });

export type Domain = Value<typeof domain>;
export type Snapshot = Value<typeof snapshot>;
export type Pool = Value<typeof pool>;
export type Volume = Value<typeof volume>;

export const programs = { remote: 0x2000_8086, qemu: 0x2000_8087, keepalive: 0x6b65_6570 } as const;

export interface Procedure<A, R> {
  readonly program: number;
  readonly number: number;
  readonly args: XdrType<A>;
  readonly result: XdrType<R>;
}

function remote<A, R>(number: number, args: XdrType<A>, result: XdrType<R>): Procedure<A, R> {
  return { program: programs.remote, number, args, result };
}

const flags = { flags: uint } as const;
const ofDomain = struct({ domain, ...flags });
const ofPool = struct({ pool, ...flags });
const ofVolume = struct({ volume, ...flags });
const all = { needResults: int, ...flags } as const;
const xml = struct({ xml: string });
const device = struct({ domain, xml: string, ...flags });
const freeze = struct({ domain, mountpoints: list(string, maxMountpoints), ...flags });
const frozen = struct({ filesystems: int });
const disk = struct({ domain, disk: string, ...flags });

export const procedures = {
  authList: remote(66, nothing, struct({ types: list(int, maxLoginTypes) })),
  authPolkit: remote(70, nothing, struct({ complete: int })),
  connectOpen: remote(1, struct({ name: optional(string), ...flags }), nothing),
  connectClose: remote(2, nothing, nothing),
  connectSupportsFeature: remote(60, struct({ feature: int }), struct({ supported: int })),
  /** Versions are major × 1,000,000 + minor × 1,000 + release. */
  connectGetVersion: remote(4, nothing, struct({ version: uhyper })),
  connectGetLibVersion: remote(157, nothing, struct({ version: uhyper })),
  connectGetHostname: remote(59, nothing, struct({ hostname: string })),
  connectGetCapabilities: remote(7, nothing, xml),

  connectListAllDomains: remote(273, struct(all), struct({ domains: list(domain, maxList), count: uint })),
  domainLookupByName: remote(23, struct({ name: string }), struct({ domain })),
  domainLookupByUuid: remote(24, struct({ uuid }), struct({ domain })),
  domainGetXml: remote(14, ofDomain, xml),
  domainGetState: remote(212, ofDomain, struct({ state: int, reason: int })),
  domainDefineXml: remote(350, struct({ xml: string, ...flags }), struct({ domain })),
  domainCreate: remote(196, ofDomain, struct({ domain })),
  domainShutdown: remote(258, ofDomain, nothing),
  domainReboot: remote(27, ofDomain, nothing),
  domainResume: remote(28, struct({ domain }), nothing),
  domainPmWakeup: remote(267, ofDomain, nothing),
  domainDestroy: remote(234, ofDomain, nothing),
  domainUndefine: remote(231, ofDomain, nothing),
  domainAttachDevice: remote(160, device, nothing),
  domainDetachDevice: remote(161, device, nothing),
  domainUpdateDevice: remote(174, device, nothing),
  domainSetVcpus: remote(199, struct({ domain, count: uint, ...flags }), nothing),
  /** `memory` in KiB. */
  domainSetMemory: remote(204, struct({ domain, memory: uhyper, ...flags }), nothing),
  domainManagedSave: remote(182, ofDomain, nothing),
  domainHasManagedSave: remote(183, ofDomain, struct({ result: int })),

  domainSnapshotCreateXml: remote(185, device, struct({ snapshot })),
  domainListAllSnapshots: remote(
    274,
    struct({ domain, ...all }),
    struct({ snapshots: list(snapshot, maxList), count: int }),
  ),
  /** `bandwidth` in MiB a second, 0 for no limit; `base` and `top` are paths of files of the chain. */
  domainBlockCommit: remote(
    290,
    struct({ domain, disk: string, base: optional(string), top: optional(string), bandwidth: uhyper, ...flags }),
    nothing,
  ),
  /** `found` 0 means that no job runs, and nothing else counts. */
  domainGetBlockJobInfo: remote(
    238,
    disk,
    struct({ found: int, type: int, bandwidth: uhyper, current: uhyper, end: uhyper }),
  ),
  domainBlockJobAbort: remote(237, disk, nothing),
  /** Bytes. */
  domainGetBlockInfo: remote(194, disk, struct({ allocation: uhyper, capacity: uhyper, physical: uhyper })),

  domainFsFreeze: remote(335, freeze, frozen),
  domainFsThaw: remote(336, freeze, frozen),
  /** `timeout` in seconds; -2 waits for ever, -1 for libvirt's default, 0 not at all. */
  domainAgentCommand: {
    program: programs.qemu,
    number: 3,
    args: struct({ domain, command: string, timeout: int, ...flags }),
    result: struct({ result: optional(string) }),
  },

  connectListAllPools: remote(281, struct(all), struct({ pools: list(pool, maxList), count: uint })),
  poolLookupByName: remote(84, struct({ name: string }), struct({ pool })),
  poolLookupByTargetPath: remote(391, struct({ path: string }), struct({ pool })),
  poolLookupByVolume: remote(86, struct({ volume }), struct({ pool })),
  poolGetXml: remote(88, ofPool, xml),
  /** Bytes. */
  poolGetInfo: remote(
    87,
    struct({ pool }),
    struct({ state: uint, capacity: uhyper, allocation: uhyper, available: uhyper }),
  ),
  poolRefresh: remote(83, ofPool, nothing),
  poolDefineXml: remote(77, struct({ xml: string, ...flags }), struct({ pool })),
  poolCreate: remote(78, ofPool, nothing),
  poolDestroy: remote(80, struct({ pool }), nothing),
  poolUndefine: remote(82, struct({ pool }), nothing),
  poolListAllVolumes: remote(282, struct({ pool, ...all }), struct({ volumes: list(volume, maxList), count: uint })),
  volumeLookupByName: remote(95, struct({ pool, name: string }), struct({ volume })),
  volumeLookupByPath: remote(97, struct({ path: string }), struct({ volume })),
  volumeGetXml: remote(99, ofVolume, xml),
  /** Bytes. */
  volumeGetInfo: remote(98, struct({ volume }), struct({ type: int, capacity: uhyper, allocation: uhyper })),
  volumeGetPath: remote(100, struct({ volume }), struct({ path: string })),
  volumeCreateXml: remote(93, struct({ pool, xml: string, ...flags }), struct({ volume })),
  volumeDelete: remote(94, ofVolume, nothing),

  eventRegister: remote(316, struct({ event: int, domain: optional(domain) }), struct({ callback: int })),
} as const satisfies Record<string, Procedure<unknown, unknown>>;

export type ProcedureName = keyof typeof procedures;
export type Args<P extends ProcedureName> = Value<(typeof procedures)[P]["args"]>;
export type Result<P extends ProcedureName> = Value<(typeof procedures)[P]["result"]>;

/** A change of a block job. `disk` is its target, as `vda`. */
export const blockJobEvent = {
  /** The procedure number of its messages. */
  number: 339,
  message: struct({ callback: int, domain, disk: string, type: int, status: int }),
} as const;

/** What comes with a reply that is an error. */
export const errorMessage = struct({
  code: int,
  domain: int,
  message: optional(string),
  level: int,
  vm: optional(domain),
  text1: optional(string),
  text2: optional(string),
  text3: optional(string),
  number1: int,
  number2: int,
  network: optional(struct({ name: string, uuid })),
});
