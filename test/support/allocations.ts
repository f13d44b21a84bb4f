/** How much memory is asked for at once, by whatever runs in this thread. */
import { mock } from "node:test";

/** Runs `work` and answers the largest single buffer that was made meanwhile, bytes. */
export async function largestBuffer(work: () => Promise<unknown>): Promise<number> {
  let largest = 0;
  const note = (bytes: unknown) => {
    if (typeof bytes === "number") largest = Math.max(largest, bytes);
  };
  const SharedMemory = globalThis.SharedArrayBuffer;
  globalThis.SharedArrayBuffer = class extends SharedMemory {
    constructor(bytes: number) {
      note(bytes);
      super(bytes);
    }
  } as SharedArrayBufferConstructor;
  const { alloc, allocUnsafe, allocUnsafeSlow } = Buffer;
  const noted =
    <Rest extends unknown[]>(make: (size: number, ...rest: Rest) => Buffer) =>
    (size: number, ...rest: Rest): Buffer => {
      note(size);
      return make(size, ...rest);
    };
  const mocks = [
    mock.method(Buffer, "alloc", noted(alloc) as typeof alloc),
    mock.method(Buffer, "allocUnsafe", noted(allocUnsafe) as typeof allocUnsafe),
    mock.method(Buffer, "allocUnsafeSlow", noted(allocUnsafeSlow) as typeof allocUnsafeSlow),
  ];
  try {
    await work();
  } finally {
    for (const one of mocks) one.mock.restore();
    globalThis.SharedArrayBuffer = SharedMemory;
  }
  return largest;
}
