import type { Forgotten } from "./api-client.ts";
import { bytes, printable } from "./format.ts";

/** What went out of the books, and what is left lying about. */
export function forgottenText(id: string, forgotten: Forgotten): string {
  const { snapshots, volumes, bytesLeftBehind, copiesLeftOf = [] } = forgotten;
  const { primary, stored } = bytesLeftBehind;
  const left =
    primary + stored === 0 ? "" : `Left behind: ${bytes(primary)} on primary storage, ${bytes(stored)} in stores.\n`;
  const copies = copiesLeftOf.map((volume) => `Copies are left of ${printable(volume)}\n`).join("");
  return `${id} is forgotten, with ${volumes} volumes and ${snapshots.length} snapshots.\n${left}${copies}`;
}
