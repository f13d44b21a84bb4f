/** What the parent asks of one run of the engine. Written to a file, as the list of extents is too long for an argument. */
import type { Extent } from "../../lambdas/repository/planner.ts";
import type { Action } from "../contender.ts";
import type { S3Access } from "../server/s3-server.ts";

export interface EngineRequest {
  readonly action: Action;
  readonly access: S3Access;
  readonly snapshotId: string;
  readonly jobId: string;
  /** Snapshot to compare with. */
  readonly base?: string;
  readonly volume: { readonly path: string; readonly sizeBytes: number; readonly extents: readonly Extent[] };
  /** Ranges that changed since the base; absent when everything is to be read. */
  readonly changed?: readonly Extent[];
  /** File that a restore makes. */
  readonly output: string;
  /** Shards at once in one process. */
  readonly shardsAtOnce: number;
  /** Where to write the seconds of each phase, JSON. */
  readonly phasesFile: string;
}
