/** What is compared: Snapferry's engine and its peers do the same actions against the same server. */
import type { Command } from "./measure/command.ts";
import type { S3Access } from "./server/s3-server.ts";
import type { VolumePair, VolumeVersion } from "./volume/volume-pair.ts";

/** Of the first version; of the second, all of it read; of the second, told what changed. */
export const backups = ["full", "incremental", "incremental-hints"] as const;
export type Backup = (typeof backups)[number];

/** In the order in which they run. */
export const actions = [...backups, "restore"] as const;
export type Action = (typeof actions)[number];

/** Where a contender works in one round. */
export interface Scene {
  readonly access: S3Access;
  readonly pair: VolumePair;
  /** An empty directory for caches and settings. */
  readonly directory: string;
}

export interface Task {
  readonly action: Action;
  /** The backup to make, or the one to restore. */
  readonly backup: Backup;
  /** The volume as it is in that backup. */
  readonly version: VolumeVersion;
  /** File that a restore makes. It does not exist yet. */
  readonly output: string;
}

export interface Contender {
  readonly name: string;
  readonly actions: readonly Action[];
  /** Makes the empty repository, where there has to be one; not measured. */
  prepare?(scene: Scene): Promise<void>;
  command(scene: Scene, task: Task): Command;
  /** Where the measured time went, by phase, in seconds; where the contender tells. */
  phases?(scene: Scene): Readonly<Record<string, number>>;
}
