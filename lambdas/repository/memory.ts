/**
 * Large buffers are used again, or change threads and are let go at once, so that a copy of any size stays within its memory. It is
 * also a matter of time: the first touch of memory costs more than filling it (in a small virtual machine many times more).
 */

const freeMemory = new Map<number, SharedArrayBuffer[]>();

/** Memory of that size that all threads see, with whatever was in it. Goes back by {@link returnShared}. */
export function borrowShared(byteLength: number): SharedArrayBuffer {
  return freeMemory.get(byteLength)?.pop() ?? new SharedArrayBuffer(byteLength);
}

/** Nothing may use `memory` any more. */
export function returnShared(memory: SharedArrayBuffer): void {
  const free = freeMemory.get(memory.byteLength) ?? [];
  freeMemory.set(memory.byteLength, free);
  free.push(memory);
}

/** The memory of `bytes`, to be transferred, unless it is small or shared with others (as Node's pool for small buffers is). */
export function ownMemory(bytes: Uint8Array): ArrayBuffer[] {
  const { buffer } = bytes;
  return buffer instanceof ArrayBuffer && bytes.byteOffset === 0 && buffer.byteLength > Buffer.poolSize ? [buffer] : [];
}

/** Gives memory back now, not when the collector finds it. `bytes` is empty afterwards. */
export function releaseMemory(bytes: Uint8Array): void {
  for (const buffer of ownMemory(bytes)) buffer.transfer(0);
}
