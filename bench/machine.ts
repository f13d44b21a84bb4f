import { availableParallelism, cpus, loadavg, release, totalmem } from "node:os";

/** Where figures were taken: they mean little without. */
export function describeMachine() {
  return {
    processor: cpus()[0]?.model ?? "unknown",
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
    loadAverage: loadavg()[0] ?? 0,
    at: new Date().toISOString(),
  };
}
export type Machine = ReturnType<typeof describeMachine>;
