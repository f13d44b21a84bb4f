/**
 * Packs of the base that verification did not find. Without this note the next attempt would refer to them again, and no attempt
 * would ever succeed; with it their chunks are written anew.
 */
import * as z from "zod";
import { repositoryFormat } from "./binary.ts";
import type { DomainCipher } from "./domain-cipher.ts";
import { jobKeys } from "./layout.ts";
import type { BackupTarget } from "./pin.ts";
import { decodeJobRecord, encodeJobRecord } from "./record.ts";

const schema = z.object({ format: z.literal(repositoryFormat), packs: z.array(z.string()) });

/** `opening`: the domain's cipher, or what becomes of it. */
export async function readDistrusted(
  target: BackupTarget,
  opening: DomainCipher | undefined | Promise<DomainCipher | undefined>,
): Promise<ReadonlySet<string>> {
  const key = jobKeys(target.domain, target.jobId).distrusted;
  const [object, cipher] = await Promise.all([target.store.get(key), opening]);
  return new Set(object && decodeJobRecord(schema, object, { key, cipher }).packs);
}

export async function distrust(
  target: BackupTarget,
  packs: Iterable<string>,
  cipher: DomainCipher | undefined,
): Promise<void> {
  const key = jobKeys(target.domain, target.jobId).distrusted;
  const all = new Set([...(await readDistrusted(target, cipher)), ...packs]);
  const record = { format: repositoryFormat, packs: [...all].sort() };
  await target.store.put(key, encodeJobRecord(record, { key, cipher }));
}
