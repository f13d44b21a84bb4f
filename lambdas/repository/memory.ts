/**
 * Large buffers are used again, so that a copy of any size stays within its memory. It is also a matter of time: the first touch of memory costs more than filling it (in a small virtual machine many times more).
 */

/** Free memory beyond this is left to the collector: what one copy after another of the same kind needs. */
const mostKeptBytes = 128 * 1024 * 1024;

/** Buffers that are borrowed and returned. Those of one size are as good as each other. */
class MemoryPool<Memory extends { readonly byteLength: number }> {
  readonly #make: (byteLength: number) => Memory;
  readonly #free = new Map<number, Memory[]>();
  #freeBytes = 0;

  constructor(make: (byteLength: number) => Memory) {
    this.#make = make;
  }

  borrow(byteLength: number): Memory {
    const memory = this.#free.get(byteLength)?.pop();
    if (!memory) return this.#make(byteLength);
    this.#freeBytes -= byteLength;
    return memory;
  }

  giveBack(memory: Memory): void {
    if (this.#freeBytes + memory.byteLength > mostKeptBytes) return;
    const free = this.#free.get(memory.byteLength) ?? [];
    this.#free.set(memory.byteLength, free);
    free.push(memory);
    this.#freeBytes += memory.byteLength;
  }
}

const sharedMemory = new MemoryPool((byteLength) => new SharedArrayBuffer(byteLength));
const ownBuffers = new MemoryPool<Buffer>((byteLength) => Buffer.allocUnsafeSlow(byteLength));

/** Memory of that size that all threads see, with whatever was in it. Goes back by {@link returnShared}. */
export function borrowShared(byteLength: number): SharedArrayBuffer {
  return sharedMemory.borrow(byteLength);
}

/** Nothing may use `memory` any more. */
export function returnShared(memory: SharedArrayBuffer): void {
  sharedMemory.giveBack(memory);
}

/** Memory of that size for this thread alone, with whatever was in it. Goes back by {@link returnBuffer}. */
export function borrowBuffer(byteLength: number): Buffer {
  return ownBuffers.borrow(byteLength);
}

/** Nothing may use `buffer` any more. */
export function returnBuffer(buffer: Buffer): void {
  ownBuffers.giveBack(buffer);
}
