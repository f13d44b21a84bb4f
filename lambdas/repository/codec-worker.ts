/**
 * A thread of the codec: names, compares and compresses chunks, or unpacks and checks them. Synchronous zstd in a thread of its own
 * takes half the CPU of Node's asynchronous one, which makes and drops a context on the main thread for each chunk.
 */
import { parentPort } from "node:worker_threads";
import { chunkHash, decodeChunk, type Encoding, encodeChunk, encodings, isZero } from "./chunk.ts";
import { decryptAt } from "./domain-cipher.ts";
import { mostFrameBytes } from "./zstd.ts";

export interface EncodeRequest {
  readonly kind: "encode";
  /** Chunks one behind the other, in shared memory. Those that get smaller are that afterwards, at the beginning of their places. */
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly chunkBytes: number;
  /** For each chunk the hash that the base has at its place: such a chunk is not compressed. */
  readonly expected: readonly (string | undefined)[];
  readonly chunkIdKey: Uint8Array | undefined;
}

/** How a chunk is to be stored, and how many bytes it has then. */
interface StoredForm {
  readonly encoding: Encoding;
  readonly length: number;
}

/** Undefined for zeros. `form` is missing where the base has the chunk. */
export type NamedChunk = { readonly hash: string; readonly form?: StoredForm } | undefined;

export interface StoredPiece {
  /** Where it lies in the request's `stored`. */
  readonly offset: number;
  readonly length: number;
  readonly encoding: Encoding;
  readonly hash: string;
  /** Where the chunk goes in `output`, and its length there. */
  readonly outputOffset: number;
  readonly outputLength: number;
}

export interface DecodeRequest {
  readonly kind: "decode";
  /** In shared memory, or copied. */
  readonly stored: Uint8Array;
  /** Where `stored` begins in its pack. */
  readonly packOffset: number;
  readonly pieces: readonly StoredPiece[];
  readonly output: Uint8Array<SharedArrayBuffer>;
  readonly packKey: Uint8Array | undefined;
  readonly chunkIdKey: Uint8Array | undefined;
}

export type CodecRequest = EncodeRequest | DecodeRequest;

function encode(request: EncodeRequest): NamedChunk[] {
  const { bytes, chunkBytes, expected, chunkIdKey } = request;
  const room = roomFor(Math.min(chunkBytes, bytes.length));
  return expected.map((ofBase, at) => {
    const chunk = bytes.subarray(at * chunkBytes, Math.min((at + 1) * chunkBytes, bytes.length));
    if (isZero(chunk)) return undefined;
    const hash = chunkHash(chunk, chunkIdKey);
    if (hash === ofBase) return { hash };
    const { encoding, bytes: encoded } = encodeChunk(chunk, room);
    if (encoding === encodings.zstd) chunk.set(encoded);
    return { hash, form: { encoding, length: encoded.length } };
  });
}

/** Of this thread, for one chunk after another. */
function roomFor(chunkBytes: number): Uint8Array {
  const wanted = mostFrameBytes(chunkBytes);
  if (frameRoom.length < wanted) frameRoom = new Uint8Array(wanted);
  return frameRoom;
}
let frameRoom = new Uint8Array();

/** For each piece whether its chunk is in the output now. */
function decode(request: DecodeRequest): boolean[] {
  const { stored, packOffset, pieces, output, packKey, chunkIdKey } = request;
  return pieces.map((piece) => {
    const slice = stored.subarray(piece.offset, piece.offset + piece.length);
    const bytes = packKey ? decryptAt(packKey, packOffset + piece.offset, slice) : slice;
    if (!bytes) return false;
    const target = output.subarray(piece.outputOffset, piece.outputOffset + piece.outputLength);
    return decodeChunk({ encoding: piece.encoding, bytes }, piece.hash, target, chunkIdKey);
  });
}

parentPort?.on("message", ({ id, request }: { id: number; request: CodecRequest }) => {
  try {
    parentPort?.postMessage({ id, answer: request.kind === "decode" ? decode(request) : encode(request) });
  } catch (error) {
    parentPort?.postMessage({ id, error });
  }
});
