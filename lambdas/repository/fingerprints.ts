/**
 * A set of keys that takes 16 bytes or less for each: 64 bits of its SHA-256. Two keys with the same fingerprint (one chance in
 * 10^7 among a million keys) make the sweep keep one object too many, never one too few.
 */
import { hash } from "node:crypto";

const initialSlots = 1024;

export class Fingerprints {
  #slots = new BigUint64Array(initialSlots);
  #size = 0;

  add(key: string): void {
    if (this.#size * 2 >= this.#slots.length) this.#grow();
    if (this.#insert(fingerprint(key))) this.#size += 1;
  }

  has(key: string): boolean {
    return this.#slots[this.#slotOf(fingerprint(key))] !== 0n;
  }

  #insert(value: bigint): boolean {
    const slot = this.#slotOf(value);
    const isNew = this.#slots[slot] === 0n;
    this.#slots[slot] = value;
    return isNew;
  }

  /** The slot that holds `value`, or the empty one where it belongs. */
  #slotOf(value: bigint): number {
    const mask = this.#slots.length - 1;
    let slot = Number(value & 0xffff_ffffn) & mask;
    while (this.#slots[slot] !== 0n && this.#slots[slot] !== value) slot = (slot + 1) & mask;
    return slot;
  }

  #grow(): void {
    const before = this.#slots;
    this.#slots = new BigUint64Array(before.length * 2);
    for (const value of before) if (value !== 0n) this.#insert(value);
  }
}

/** Never 0, which marks an empty slot. */
function fingerprint(key: string): bigint {
  const value = hash("sha256", key, "buffer").readBigUInt64LE();
  return value === 0n ? 1n : value;
}
