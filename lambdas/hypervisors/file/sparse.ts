/** Where a file has data and where it has holes. Node has no lseek: it is called through koffi where that can be loaded. */
import { fstatSync } from "node:fs";

export interface Extent {
  readonly offset: number;
  readonly length: number;
}

/** Linux, `man 2 lseek`. */
const seekData = 3;
const seekHole = 4;
/** ENXIO: there is no data at or behind the offset. */
const noMoreData = 6;

interface Lseek {
  (fd: number, offset: number, whence: number): number;
  /** errno of the last call. */
  errno(): number;
}

let loading: Promise<Lseek | undefined> | undefined;

/** Undefined where koffi's native part, or the C library, is not there: then all counts as data. */
function loadLseek(): Promise<Lseek | undefined> {
  loading ??= import("koffi")
    .then(({ default: koffi }) => {
      const call = koffi.load("libc.so.6").func("int64_t lseek(int fd, int64_t off, int whence)");
      const lseek = (fd: number, offset: number, whence: number) => Number(call(fd, offset, whence));
      return Object.assign(lseek, { errno: () => koffi.errno() });
    })
    .catch(() => undefined);
  return loading;
}

/**
 * Ranges of `range` that hold data, ascending. Takes time in proportion to their number, not to the file's size. A file system that
 * cannot tell calls everything data.
 */
export async function* dataExtents(fd: number, range: Extent): AsyncGenerator<Extent> {
  const lseek = await loadLseek();
  const end = Math.min(range.offset + range.length, fstatSync(fd).size);
  let position = range.offset;
  while (position < end) {
    const start = lseek ? lseek(fd, position, seekData) : position;
    if (start < 0 && lseek?.errno() === noMoreData) return;
    const hole = start < 0 || !lseek ? end : lseek(fd, start, seekHole);
    const from = Math.max(start, position);
    const to = hole < 0 ? end : Math.min(hole, end);
    if (from < to) yield { offset: from, length: to - from };
    position = to > position ? to : end;
  }
}
