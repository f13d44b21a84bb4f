/** Requests that wait for their answer: what may come as an answer, and where it goes. */
import { Coverage } from "./coverage.ts";
import { type NbdError, NbdProtocolError, type NbdRequestFailed } from "./errors.ts";
import type { CommandName } from "./wire.ts";

/** A range of an export, in bytes. */
export interface Range {
  readonly offset: number;
  readonly length: number;
}

export class PendingRequest {
  readonly command: CommandName;
  readonly range: Range;
  readonly #settled = Promise.withResolvers<void>();
  #failure: NbdRequestFailed | undefined;

  constructor(command: CommandName, range: Range) {
    this.command = command;
    this.range = range;
  }

  get done(): Promise<void> {
    return this.#settled.promise;
  }

  /** Where `length` bytes for `offset` of the export go. Throws NbdProtocolError for an answer that was not asked for. */
  bufferFor(_offset: number, _length: number): Uint8Array {
    throw this.unexpected("data");
  }

  /** `length` bytes from `offset` of the export are zeros. */
  zeroes(_offset: number, _length: number): void {
    throw this.unexpected("a hole");
  }

  /** The extents of one context are coming; each is handed to what is returned. */
  extentsOf(_contextId: number): (length: number, flags: number) => void {
    throw this.unexpected("block status");
  }

  /** Whether all is there that makes a success. */
  protected get complete(): boolean {
    return true;
  }

  /** The first error counts; the answer may go on behind it. */
  note(failure: NbdRequestFailed): void {
    this.#failure ??= failure;
  }

  /** The answer is at its end. */
  finish(): void {
    if (this.#failure) this.#settled.reject(this.#failure);
    else if (this.complete) this.#settled.resolve();
    else throw new NbdProtocolError(`The server's answer to ${this.command} at ${this.range.offset} is not whole.`);
  }

  fail(error: NbdError): void {
    this.#settled.reject(error);
  }

  protected unexpected(what: string): NbdProtocolError {
    return new NbdProtocolError(`The server answers ${this.command} with ${what}.`);
  }
}

export class PendingRead extends PendingRequest {
  readonly #target: Uint8Array;
  readonly #coverage: Coverage;

  /** `target` is filled as bytes come; what it holds after a failure is of no use. */
  constructor(target: Uint8Array, offset: number) {
    super("read", { offset, length: target.length });
    this.#target = target;
    this.#coverage = new Coverage(target.length);
  }

  override bufferFor(offset: number, length: number): Uint8Array {
    const start = offset - this.range.offset;
    this.#coverage.add(start, length);
    return this.#target.subarray(start, start + length);
  }

  override zeroes(offset: number, length: number): void {
    this.bufferFor(offset, length).fill(0);
  }

  protected override get complete(): boolean {
    return this.#coverage.complete;
  }
}

/** A range with the flags that one meta context gives it. */
export interface StatusExtent extends Range {
  readonly flags: number;
}

export class PendingStatus extends PendingRequest {
  /** What has come, by the name of the context. */
  readonly extents = new Map<string, StatusExtent[]>();
  readonly #contexts: ReadonlyMap<number, string>;

  constructor(range: Range, contexts: ReadonlyMap<number, string>) {
    super("blockStatus", range);
    this.#contexts = contexts;
  }

  /**
   * A server may tell less than was asked for, or let the last extent reach further; that is cut off. None may be empty, and none may
   * begin behind the range, so that there are never more than the range has bytes.
   */
  override extentsOf(contextId: number): (length: number, flags: number) => void {
    const name = this.#contexts.get(contextId);
    if (name === undefined || this.extents.has(name))
      throw this.unexpected("a meta context that was not asked for, or twice");
    const extents: StatusExtent[] = [];
    this.extents.set(name, extents);
    const end = this.range.offset + this.range.length;
    let at = this.range.offset;
    return (length, flags) => {
      if (length === 0 || at >= end) throw this.unexpected("an extent that is empty or out of range");
      extents.push({ offset: at, length: Math.min(length, end - at), flags });
      at += length;
    };
  }

  protected override get complete(): boolean {
    return [...this.#contexts.values()].every((name) => (this.extents.get(name)?.length ?? 0) > 0);
  }
}
