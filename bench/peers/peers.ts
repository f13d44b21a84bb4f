import type { Contender } from "../contender.ts";
import { BenchmarkError } from "../errors.ts";
import type { Peer, Toolbox } from "./peer.ts";
import { qemuImg } from "./qemu-img.ts";
import { restic } from "./restic.ts";
import { rustic } from "./rustic.ts";
import { zstdRclone } from "./zstd-rclone.ts";

const peers: readonly Peer[] = [rustic, restic, qemuImg, zstdRclone];
export const peerNames = peers.map(({ name }) => name);

export interface SkippedPeer {
  readonly name: string;
  readonly reason: string;
}

/** The peers of these names that can be had here, and why the others cannot. */
export async function installPeers(
  names: readonly string[],
  toolbox: Toolbox,
): Promise<{ contenders: Contender[]; skipped: SkippedPeer[] }> {
  const contenders: Contender[] = [];
  const skipped: SkippedPeer[] = [];
  for (const peer of peers.filter(({ name }) => names.includes(name))) {
    try {
      contenders.push(await peer.install(toolbox));
    } catch (error) {
      if (!(error instanceof BenchmarkError)) throw error;
      skipped.push({ name: peer.name, reason: error.message });
    }
  }
  return { contenders, skipped };
}
