/** A file to do the main job on. */
import { stat } from "node:fs/promises";
import path from "node:path";
import { type Client, everyItem } from "../../cli/api-client.ts";
import { digestOf } from "./digest.ts";
import type { DemoVolume } from "./main-job.ts";

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
