import type { Forgotten } from "./api-client.ts";
import { bytes } from "./format.ts";

/** What went out of the books, and what is left lying about. */
export function forgottenText(id: string, { snapshots, volumes, bytesLeftBehind }: Forgotten): string {
  const { primary, stored } = bytesLeftBehind;
  const left =
    primary + stored === 0 ? "" : `Left behind: ${bytes(primary)} on primary storage, ${bytes(stored)} in stores.\n`;
  return `${id} is forgotten, with ${volumes} volumes and ${snapshots.length} snapshots.\n${left}`;
}
