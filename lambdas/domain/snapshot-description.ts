/**
 * What a backup tells about itself in the store: enough to write the rows of a snapshot and its volume anew when the tables are lost.
 * Texts by name, so that people can read it too. Pure.
 */
import * as z from "zod";
import { idPattern } from "./ids.ts";
import { dedupDomain, type HypervisorSettings, type Volume, volumeIdFor } from "./inventory.ts";
import { consistencies, type Snapshot } from "./snapshot.ts";

export type DescribedTexts = Readonly<Record<string, string>>;

/** Before the key of each tag. */
const tagPrefix = "tag:";

/**
 * Bytes of JSON that a description may have. A root has room for 65,535 bytes of it, and an encrypted one takes 4/3 of what it holds.
 * Tags alone may be larger (50 of 384 characters, 4 bytes each): then as many are kept as fit.
 */
const mostBytes = 45_000;

/** What a backup's root is to say. `volume` and `kind` are missing where their rows are gone. */
export function describeSnapshot(
  snapshot: Snapshot,
  volume: Volume | undefined,
  kind: HypervisorSettings["kind"] | undefined,
): DescribedTexts {
  const texts = {
    tenant: snapshot.tenant,
    volumeId: snapshot.volumeId,
    volumeName: volume?.name,
    volumeExternalId: volume?.externalId,
    hypervisorId: snapshot.hypervisorId,
    hypervisorTenant: snapshot.hypervisorTenant,
    hypervisorKind: kind,
    name: snapshot.name,
    description: snapshot.description,
    consistency: snapshot.consistency,
    createdAt: snapshot.createdAt,
    createdOnPrimaryAt: snapshot.createdOnPrimaryAt,
  };
  const given = Object.entries(texts).filter((entry): entry is [string, string] => entry[1] !== undefined);
  let room = mostBytes - jsonBytes(given);
  const tags = Object.entries(snapshot.tags).map(([key, value]): [string, string] => [`${tagPrefix}${key}`, value]);
  const kept = tags.filter((tag) => {
    room -= jsonBytes([tag]);
    return room >= 0;
  });
  const leftOut: [string, string][] =
    kept.length < tags.length ? [["tagsLeftOut", `${tags.length - kept.length}`]] : [];
  return Object.fromEntries([...given, ...kept, ...leftOut]);
}

function jsonBytes(entries: readonly (readonly [string, string])[]): number {
  return Buffer.byteLength(JSON.stringify(Object.fromEntries(entries)));
}

const time = z.iso.datetime();
const name = z.string().min(1).max(1024);

const textsSchema = z.object({
  tenant: z.string().min(1).max(63),
  volumeId: z.string().regex(idPattern("volume")),
  volumeName: name.optional(),
  volumeExternalId: name,
  hypervisorId: z.string().regex(idPattern("hypervisor")),
  hypervisorTenant: z.string().min(1).max(63),
  hypervisorKind: z.string().max(63).optional(),
  name: name.optional(),
  description: z.string().max(4096).optional(),
  consistency: z.enum(consistencies).optional(),
  createdAt: time,
  createdOnPrimaryAt: time.optional(),
  storedBytes: z
    .string()
    .regex(/^\d{1,15}$/)
    .transform(Number)
    .optional(),
});

/** A description that was read, checked and taken apart. */
export type DescribedSnapshot = z.output<typeof textsSchema> & { readonly tags: Readonly<Record<string, string>> };

/**
 * What these texts tell of a backup that lies in the domain `domain`. Answers a sentence instead when they do not tell it, or contradict
 * the place where they were found: a domain's name is a hash of tenant and volume, and a volume's id one of hypervisor and its own id there.
 */
export function readDescription(texts: DescribedTexts, domain: string): DescribedSnapshot | string {
  if (Object.keys(texts).length === 0)
    return "It has no description: it was published by an early version, and nothing in the store tells which volume it is of.";
  const parsed = textsSchema.safeParse(texts);
  if (!parsed.success) {
    const fields = [...new Set(parsed.error.issues.map((issue) => String(issue.path[0])))];
    return `Its description lacks, or has in no proper form: ${fields.join(", ")}.`;
  }
  const { tenant, volumeId, hypervisorId, volumeExternalId } = parsed.data;
  if (dedupDomain(tenant, volumeId) !== domain)
    return "Its description is of another volume than its place in the store.";
  if (volumeIdFor(hypervisorId, volumeExternalId) !== volumeId)
    return "Its description contradicts itself: the volume's id is not made of the hypervisor's and the volume's own.";
  const tags = Object.entries(texts)
    .filter(([key]) => key.startsWith(tagPrefix))
    .map(([key, value]) => [key.slice(tagPrefix.length), value]);
  return { ...parsed.data, tags: Object.fromEntries(tags) };
}
