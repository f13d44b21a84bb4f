/** Volumes that the main job is done on. */
import { stat } from "node:fs/promises";
import path from "node:path";
import { type Client, everyItem } from "../../cli/api-client.ts";
import { digestOf } from "./digest.ts";

/** What the main job is done on. */
export interface DemoVolume {
  /** As discovery names it. */
  readonly name: string;
  /** Registers the hypervisor that has it, or finds it registered; answers its id. */
  register(client: Client): Promise<string>;
  size(): Promise<{ bytes: number; allocatedBytes: number }>;
  /** SHA-256 of the volume. Absent where somebody writes to it all the time. */
  digest?(onProgress: (bytesDone: number) => void): Promise<string>;
  /** SHA-256 of what a snapshot froze. Asked for where there is no {@link digest}. */
  digestOfFrozen?(snapshotId: string): Promise<string>;
}

/** `stat` counts blocks of 512 bytes, whatever the file system's own are. */
const statBlockBytes = 512;

/** Its directory becomes a hypervisor. */
export function fileVolume(file: string): DemoVolume {
  return {
    name: path.basename(file),
    register: (client) => registeredDirectory(client, path.dirname(file)),
    size: async () => {
      const { size, blocks } = await stat(file);
      return { bytes: size, allocatedBytes: blocks * statBlockBytes };
    },
    digest: (onProgress) => digestOf(file, onProgress),
  };
}

/** The hypervisor of this directory; a second start in the same cloud finds the first one's. */
export async function registeredDirectory(client: Client, directory: string): Promise<string> {
  for await (const known of everyItem(client.hypervisors.list))
    if (known.kind === "file" && known.directory === directory) return known.id;
  return (await client.hypervisors.register({ kind: "file", directory })).id;
}
