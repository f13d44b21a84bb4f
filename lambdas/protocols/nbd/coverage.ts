/** Which parts of a read have come: chunks may come in any order, and each byte must come once. */
import { NbdProtocolError } from "./errors.ts";

interface Span {
  start: number;
  end: number;
}

/**
 * Servers cut at borders of their own blocks and go upwards, so parts that do not touch are few. The bound keeps a server that
 * sends single bytes from filling memory.
 */
const maxSpans = 1024;

export class Coverage {
  readonly #length: number;
  /** Ascending; spans that touch are one. */
  readonly #spans: Span[] = [];

  constructor(length: number) {
    this.#length = length;
  }

  /** Throws NbdProtocolError for what lies outside or has come before. */
  add(start: number, length: number): void {
    const end = start + length;
    if (length <= 0 || start < 0 || end > this.#length)
      throw new NbdProtocolError("The server sent bytes outside of what was read.");
    let index = this.#spans.length;
    while (index > 0 && this.#spans[index - 1]!.start >= start) index--;
    const before = this.#spans[index - 1];
    const behind = this.#spans[index];
    if ((before && before.end > start) || (behind && behind.start < end)) {
      throw new NbdProtocolError("The server sent the same bytes of a read twice.");
    }
    if (before?.end === start) {
      before.end = behind?.start === end ? behind.end : end;
      if (behind?.start === end) this.#spans.splice(index, 1);
    } else if (behind?.start === end) behind.start = start;
    else this.#spans.splice(index, 0, { start, end });
    if (this.#spans.length > maxSpans)
      throw new NbdProtocolError("The server cuts the answer to a read into too many pieces.");
  }

  get complete(): boolean {
    if (this.#length === 0) return true;
    const [first] = this.#spans;
    return this.#spans.length === 1 && first?.start === 0 && first.end === this.#length;
  }
}
