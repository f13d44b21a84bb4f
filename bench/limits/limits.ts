/**
 * The least time that each action can take on this machine: the processor time that its bytes need, of client and server, shared by
 * all cores; or one stage that only goes on in one place at a time, whichever is longer.
 */
import { availableParallelism } from "node:os";
import { encodeChunk } from "../../lambdas/repository/chunk.ts";
import { geometryFor } from "../../lambdas/repository/domain-record.ts";
import type { Action } from "../contender.ts";
import type { VolumePair } from "../volume/volume-pair.ts";
import { changedBytes, contentOf, readPlaces, sampleChunks, type VolumeContent } from "./samples.ts";
import { measureStages, type StageCosts, type StageName, type Stages, stageNames } from "./stages.ts";

/** Bytes that go through each stage. */
export type StageBytes = Readonly<Partial<Record<StageName, number>>>;

export interface Limit {
  readonly action: Action;
  readonly bytes: StageBytes;
  /** Processor time of client and server, seconds. */
  readonly processorSeconds: number;
  /** The stages that one process can only do one after the other, the longest of them: wall seconds. */
  readonly serialSeconds: number;
  readonly seconds: number;
}

export interface Limits {
  readonly stages: Stages;
  readonly chunkBytes: number;
  /** Of the first version. */
  readonly content: Omit<VolumeContent, "uniqueChunks">;
  /** What the changed blocks take when each is compressed for itself. */
  readonly changedStoredBytes: number;
  readonly limits: readonly Limit[];
}

/** 64 MiB or more of the volume's chunks. */
const sampleCount = 512;
/** Requests all go through the one event loop, whatever the cores do. */
const serialStages: readonly StageName[] = ["put", "get"];

export async function measureLimits(pair: VolumePair, memory: string): Promise<Limits> {
  const { chunkBytes } = geometryFor(pair.sizeBytes);
  const first = await contentOf(pair.first, pair.sizeBytes, chunkBytes);
  const second = await contentOf(pair.second, pair.sizeBytes, chunkBytes);
  const samples = await sampleChunks(pair.first.path, first, sampleCount);
  const stages = await measureStages({ version: pair.first, samples, memory });
  const changed = await readPlaces(pair.second.path, pair.changed);
  const bytes = stageBytes({ first, second, changed: changedBytes(pair, chunkBytes), share: stages.compressedShare });
  const { uniqueChunks: _, ...content } = first;
  return {
    stages,
    chunkBytes,
    content,
    changedStoredBytes: changed.reduce((sum, block) => sum + encodeChunk(block).bytes.length, 0),
    limits: Object.entries(bytes).map(([action, each]) => limitOf(action as Action, each, stages.costs)),
  };
}

interface Amounts {
  readonly first: VolumeContent;
  readonly second: VolumeContent;
  /** Bytes of changed chunks. */
  readonly changed: number;
  readonly share: number;
}

/** Which bytes an action has to put through which stage. */
export function stageBytes({ first, second, changed, share }: Amounts): Record<Action, StageBytes> {
  return {
    full: {
      read: first.allocatedBytes,
      zeroTest: first.allocatedBytes - first.dataBytes,
      hash: first.dataBytes,
      compress: first.uniqueBytes,
      put: first.uniqueBytes * share,
    },
    incremental: {
      read: second.allocatedBytes,
      zeroTest: second.allocatedBytes - second.dataBytes,
      hash: second.dataBytes,
      compress: changed,
      put: changed * share,
    },
    "incremental-hints": { read: changed, hash: changed, compress: changed, put: changed * share },
    restore: {
      get: second.uniqueBytes * share,
      decompress: second.dataBytes,
      hash: second.dataBytes,
      write: second.dataBytes,
    },
  };
}

export function limitOf(action: Action, bytes: StageBytes, costs: StageCosts): Limit {
  const processorSeconds = stageNames.reduce(
    (sum, stage) => sum + (bytes[stage] ?? 0) * (costs[stage].client + costs[stage].server),
    0,
  );
  const serialSeconds = Math.max(...serialStages.map((stage) => (bytes[stage] ?? 0) * costs[stage].wall));
  const seconds = Math.max(processorSeconds / availableParallelism(), serialSeconds);
  return { action, bytes, processorSeconds, serialSeconds, seconds };
}
