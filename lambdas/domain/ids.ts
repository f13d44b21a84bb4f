/** Ids are prefixed and sortable by time (ULID): `snap_01JD7Q…`. Those of what a hypervisor has of its own are a hash of that instead. */
import { createHash } from "node:crypto";
import { monotonicFactory } from "ulid";

export const idPrefixes = {
  snapshot: "snap",
  job: "job",
  volume: "vol",
  vm: "vm",
  group: "group",
  operation: "op",
  hypervisor: "hyp",
  store: "store",
} as const;
export type IdKind = keyof typeof idPrefixes;

const ulid = monotonicFactory();

/** A new id; two of one process never sort against their order of creation. */
export function newId(kind: IdKind): string {
  return `${idPrefixes[kind]}_${ulid()}`;
}

/** What an id of this kind looks like. */
export function idPattern(kind: IdKind): RegExp {
  return new RegExp(`^${idPrefixes[kind]}_[0-9A-HJKMNP-TV-Z]{26}$`);
}

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/** The same thing on the same hypervisor gets the same id from every discovery and every restore, so that none of them adds a second row. */
export function derivedId(kind: IdKind, hypervisorId: string, externalId: string): string {
  const digest = createHash("sha256").update(`${hypervisorId}\0${externalId}`).digest();
  let bits = BigInt(`0x${digest.subarray(0, 16).toString("hex")}`);
  let text = "";
  for (let index = 0; index < 26; index++) {
    text = crockford[Number(bits & 31n)] + text;
    bits >>= 5n;
  }
  return `${idPrefixes[kind]}_${text}`;
}
