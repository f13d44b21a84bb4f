/** Reads all of an export as a copy does, and lets it go: node read.ts REQUEST.json */
import { readFileSync } from "node:fs";
import { KvmHypervisor } from "../../lambdas/hypervisors/kvm/kvm-hypervisor.ts";
import { forEachInFlight } from "../../lambdas/repository/in-flight.ts";
import type { ReadRequest } from "./read-request.ts";

/** As `lambdas/repository/shard-batches.ts` reads: so many bytes at once, so many of these under way. */
const batchBytes = 2 * 1024 * 1024;
const batchesInFlight = 6;

const { descriptor, keyFile, ...settings } = JSON.parse(readFileSync(process.argv[2] ?? "", "utf8")) as ReadRequest;
const hypervisor = new KvmHypervisor({ ...settings, privateKey: async () => readFileSync(keyFile, "utf8") });
const reader = await hypervisor.openReader(descriptor);
const buffers = Array.from({ length: batchesInFlight }, () => Buffer.alloc(batchBytes));
const offsets = Array.from({ length: Math.ceil(descriptor.sizeBytes / batchBytes) }, (_, at) => at * batchBytes);
await forEachInFlight(offsets, batchesInFlight, async (offset) => {
  const buffer = buffers.pop()!;
  await reader.read(buffer.subarray(0, Math.min(batchBytes, descriptor.sizeBytes - offset)), offset);
  buffers.push(buffer);
});
await reader[Symbol.asyncDispose]();
await hypervisor.close();
