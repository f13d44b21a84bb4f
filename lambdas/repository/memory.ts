/** Large buffers change threads and are let go at once, so that a copy of any size stays within its memory. */

/** The memory of `bytes`, to be transferred, unless it is small or shared with others (as Node's pool for small buffers is). */
export function ownMemory(bytes: Uint8Array): ArrayBuffer[] {
  const { buffer } = bytes;
  return buffer instanceof ArrayBuffer && bytes.byteOffset === 0 && buffer.byteLength > Buffer.poolSize ? [buffer] : [];
}

/** Gives memory back now, not when the collector finds it. `bytes` is empty afterwards. */
export function releaseMemory(bytes: Uint8Array): void {
  for (const buffer of ownMemory(bytes)) buffer.transfer(0);
}
