/** Limits and retention of a store, as they are written on the command line and shown there. */
import { type Command, InvalidArgumentError } from "commander";
import type { Store } from "./api-client.ts";
import { bytes, bytesWanted, parseBytes } from "./format.ts";

const none = "none";

/** `None` is the word `none` where that takes an option away, and never where there is nothing to take away. */
export interface StoreOptionFlags<None extends typeof none> {
  readonly bytesPerSecond?: number | None;
  readonly requestsPerSecond?: number | None;
  readonly objectLock?: ObjectLock | None;
}

type ObjectLock = NonNullable<Store["objectLock"]>;

/** Adds the flags to a command. `removable`: each also takes `none`. */
export function withStoreOptions(to: Command, { removable }: { removable: boolean }): Command {
  const orNone = removable ? ", or none" : "";
  const parser =
    <Value>(parse: (text: string) => Value) =>
    (text: string) =>
      removable && text === none ? none : parse(text);
  return to
    .option(
      "--bytes-per-second <size>",
      `what all workers together may transfer in a second, such as 50MiB${orNone}`,
      parser(parseSize),
    )
    .option(
      "--requests-per-second <number>",
      `how many requests all workers together may make in a second${orNone}`,
      parser(parseNumber),
    )
    .option(
      "--object-lock <mode:days>",
      `lock backups for so many days, such as governance:30 or compliance:365${orNone}`,
      parser(parseObjectLock),
    );
}

/** What the API is asked for: null takes away. */
export function storeOptions<None extends typeof none>(flags: StoreOptionFlags<None>) {
  type Removed = None extends typeof none ? null : never;
  const asked = <Value>(value: Value | None) => (value === none ? null : value) as Value | Removed;
  const { bytesPerSecond, requestsPerSecond, objectLock } = flags;
  const limits = {
    ...(bytesPerSecond === undefined ? {} : { bytesPerSecond: asked<number>(bytesPerSecond) }),
    ...(requestsPerSecond === undefined ? {} : { requestsPerSecond: asked<number>(requestsPerSecond) }),
  };
  return {
    ...(Object.keys(limits).length === 0 ? {} : { limits }),
    ...(objectLock === undefined ? {} : { objectLock: asked<ObjectLock>(objectLock) }),
  };
}

/** Lines of a store's details. */
export function optionDetails({ encryption, limits, objectLock }: Store): [string, string | undefined][] {
  return [
    ["Encryption", encryption],
    ["Bytes a second", limits?.bytesPerSecond === undefined ? undefined : bytes(limits.bytesPerSecond)],
    ["Requests a second", limits?.requestsPerSecond === undefined ? undefined : String(limits.requestsPerSecond)],
    ["Object Lock", objectLock && `${objectLock.mode}, ${objectLock.days} ${objectLock.days === 1 ? "day" : "days"}`],
  ];
}

function parseSize(text: string): number {
  const size = parseBytes(text);
  if (size === undefined) throw new InvalidArgumentError(`A size is ${bytesWanted}.`);
  return size;
}

function parseNumber(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new InvalidArgumentError("It is a whole number.");
}

function parseObjectLock(text: string): ObjectLock {
  const [, mode, days] = /^(governance|compliance):(\d{1,5})$/.exec(text) ?? [];
  if (mode === undefined) throw new InvalidArgumentError("It is governance or compliance, a colon, and days.");
  return { mode: mode as ObjectLock["mode"], days: Number(days) };
}
