/** One bit for each of a row of things, lowest bit first, as pages and plans have it for their chunks. */
export class Bitmap {
  readonly bytes: Uint8Array;
  readonly length: number;

  /** `bytes` of `length` bits, {@link bytesFor} of them; what follows the last bit means nothing. */
  constructor(length: number, bytes: Uint8Array = Buffer.alloc(Bitmap.bytesFor(length))) {
    this.length = length;
    this.bytes = bytes;
  }

  static bytesFor(length: number): number {
    return Math.ceil(length / 8);
  }

  /** With those bits that `isSet` holds for. */
  static of(length: number, isSet: (index: number) => boolean): Bitmap {
    const bitmap = new Bitmap(length);
    for (let index = 0; index < length; index++) if (isSet(index)) bitmap.set(index);
    return bitmap;
  }

  has(index: number): boolean {
    return index < this.length && (this.bytes[index >> 3]! & (1 << (index & 7))) !== 0;
  }

  set(index: number): void {
    this.bytes[index >> 3]! |= 1 << (index & 7);
  }

  /** How many bits are set. */
  count(): number {
    let count = 0;
    for (let at = 0; at < this.bytes.length; at++)
      for (let bits = this.#byteAt(at); bits !== 0; bits &= bits - 1) count += 1;
    return count;
  }

  /** Positions of the bits that are set, ascending. */
  indexes(): number[] {
    const indexes: number[] = [];
    for (let at = 0; at < this.bytes.length; at++)
      for (let bits = this.#byteAt(at); bits !== 0; bits &= bits - 1) indexes.push(at * 8 + lowestBit(bits));
    return indexes;
  }

  /** `length` bits: those of the first that are set here and not in `others`. */
  without(others: Bitmap, length: number): Bitmap {
    const left = new Bitmap(length);
    for (let at = 0; at < left.bytes.length; at++) left.bytes[at] = this.#byteAt(at) & ~others.#byteAt(at);
    if (left.bytes.length > 0) left.bytes[left.bytes.length - 1] = left.#byteAt(left.bytes.length - 1);
    return left;
  }

  /** Nothing behind the last bit is in it. */
  #byteAt(at: number): number {
    const bits = Math.min(8, this.length - at * 8);
    return bits > 0 ? this.bytes[at]! & ((1 << bits) - 1) : 0;
  }
}

function lowestBit(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}
