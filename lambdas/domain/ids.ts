/** Ids are prefixed and sortable by time (ULID): `snap_01JD7Q…`. */
import { monotonicFactory } from "ulid";

export const idPrefixes = {
  snapshot: "snap",
  job: "job",
  volume: "vol",
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
