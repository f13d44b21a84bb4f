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

  /** Positions of the bits that are set, ascending. */
  indexes(): number[] {
    const indexes: number[] = [];
    for (let index = 0; index < this.length; index++) {
      if (this.bytes[index >> 3] === 0) index |= 7;
      else if (this.has(index)) indexes.push(index);
    }
    return indexes;
  }
}
