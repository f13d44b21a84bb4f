/** Object Lock of an S3-compatible store. */
import {
  GetObjectLockConfigurationCommand,
  GetObjectRetentionCommand,
  PutObjectRetentionCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import type { Retention } from "./object-store.ts";
import { hasStatus, isNamed } from "./s3-errors.ts";

/** An object, or one version of it. */
export interface LockTarget {
  readonly Bucket: string;
  readonly Key: string;
  readonly VersionId?: string | undefined;
}

/** How stores say that a bucket was made without Object Lock, or that they know none. */
const withoutLock = [
  "ObjectLockConfigurationNotFoundError",
  "NoSuchObjectLockConfiguration",
  "NotImplemented",
  "MethodNotAllowed",
  "InvalidRequest",
  "InvalidArgument",
];

/** Whether the bucket was made for Object Lock. */
export async function isLockEnabled(client: S3Client, Bucket: string): Promise<boolean> {
  try {
    const answer = await client.send(new GetObjectLockConfigurationCommand({ Bucket }));
    return answer.ObjectLockConfiguration?.ObjectLockEnabled === "Enabled";
  } catch (error) {
    if (meansNoLock(error)) return false;
    throw error;
  }
}

/** Errors of a bucket without Object Lock and of objects without retention; any other, also of an object that is missing, is thrown. */
export async function readRetention(client: S3Client, target: LockTarget): Promise<Retention | undefined> {
  try {
    const { Retention: found } = await client.send(new GetObjectRetentionCommand(target));
    if (!found?.RetainUntilDate) return undefined;
    return { mode: found.Mode === "COMPLIANCE" ? "COMPLIANCE" : "GOVERNANCE", until: found.RetainUntilDate };
  } catch (error) {
    if (isNamed(error, "NoSuchObjectLockConfiguration")) return undefined;
    throw error;
  }
}

/** Whether the error may say that there is no Object Lock. Some of these codes have other meanings too where an object was asked for. */
export function meansNoLock(error: unknown): boolean {
  return withoutLock.some((name) => isNamed(error, name));
}

/** Whether the object is gone, or a delete marker is its current version. */
export function isMissing(error: unknown): boolean {
  return isNamed(error, "NoSuchKey") || hasStatus(error, 405);
}

/** Sets the retention of the object's current version, unless one that is as long and as strict is there. */
export async function extendRetention(client: S3Client, target: LockTarget, wanted: Retention): Promise<void> {
  const current = await readRetention(client, target);
  if (current && covers(current, wanted)) return;
  const { mode, until } = current ? stricter(current, wanted) : wanted;
  try {
    await client.send(
      new PutObjectRetentionCommand({
        ...target,
        Retention: { Mode: mode, RetainUntilDate: until },
        // S3 asks for it when the mode changes; it only ever becomes stricter here.
        ...(current && current.mode !== mode && { BypassGovernanceRetention: true }),
      }),
    );
  } catch (error) {
    // Somebody else may have retained it for longer meanwhile.
    if (!hasStatus(error, 403)) throw error;
    const now = await readRetention(client, target);
    if (!now || !covers(now, wanted)) throw error;
  }
}

/** Whether `wanted` adds nothing to `current`. */
export function covers(current: Retention, wanted: Retention): boolean {
  return current.until >= wanted.until && (current.mode === "COMPLIANCE" || wanted.mode === "GOVERNANCE");
}

/** The later end and the stricter mode of both. */
function stricter(one: Retention, other: Retention): Retention {
  return {
    mode: one.mode === "COMPLIANCE" ? "COMPLIANCE" : other.mode,
    until: new Date(Math.max(one.until.getTime(), other.until.getTime())),
  };
}
