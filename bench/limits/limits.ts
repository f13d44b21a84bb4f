/**
 * The least time that each action can take on this machine: the processor time that its bytes need, of client and server, shared by
 * all cores; or one stage that only goes on in one place at a time, whichever is longer.
 */
import { availableParallelism } from "node:os";
import { encodeChunk } from "../../lambdas/repository/chunk.ts";
import { geometryFor } from "../../lambdas/repository/domain-record.ts";
import type { Action } from "../contender.ts";
import { median } from "../summary.ts";
import type { VolumePair } from "../volume/volume-pair.ts";
import { changedBytes, contentOf, readPlaces, sampleChunks, type VolumeContent } from "./samples.ts";
import { measureStages, type StageCost, type StageCosts, type StageName, type Stages, stageNames } from "./stages.ts";

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
const sampleCount = 1024;
/** Requests all go through the one event loop, whatever the cores do. */
const serialStages: readonly StageName[] = ["put", "get"];

/** What the limits are derived from, beside the machine. */
export interface LimitBasis {
  readonly pair: VolumePair;
  readonly chunkBytes: number;
  readonly first: VolumeContent;
  readonly second: VolumeContent;
  /** Chunks of the first version that the stages are measured with. */
  readonly samples: readonly Buffer[];
}

/** Reads both versions once. */
export async function limitBasis(pair: VolumePair): Promise<LimitBasis> {
  const { chunkBytes } = geometryFor(pair.sizeBytes);
  const first = await contentOf(pair.first, pair.sizeBytes, chunkBytes);
  const second = await contentOf(pair.second, pair.sizeBytes, chunkBytes);
  return { pair, chunkBytes, first, second, samples: await sampleChunks(pair.first.path, first, sampleCount) };
}

/** What the stages cost now. `memory` is a directory on a tmpfs. */
export function measureLimitStages({ pair, samples }: LimitBasis, memory: string): Promise<Stages> {
  return measureStages({ version: pair.first, samples, memory });
}

/** By the medians of what the stages cost in each round: the machine as the contenders had it. Needs one round at least. */
export async function deriveLimits(basis: LimitBasis, rounds: readonly Stages[]): Promise<Limits> {
  const { pair, chunkBytes, first, second } = basis;
  const stages = medianStages(rounds);
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

export function medianStages(rounds: readonly Stages[]): Stages {
  const costOf = (stage: StageName): StageCost => {
    const medianOf = (value: (cost: StageCost) => number) => median(rounds.map(({ costs }) => value(costs[stage])));
    return {
      client: medianOf(({ client }) => client),
      server: medianOf(({ server }) => server),
      wall: medianOf(({ wall }) => wall),
    };
  };
  const costs = Object.fromEntries(stageNames.map((stage) => [stage, costOf(stage)])) as Record<StageName, StageCost>;
  return { costs, compressedShare: median(rounds.map(({ compressedShare }) => compressedShare)) };
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
