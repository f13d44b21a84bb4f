/**
 * The phase before the first request: fixed newstyle, in which client and server agree on TLS, structured replies, meta contexts and the
 * export. A server that has only EXPORT_NAME, or refuses all options, is served too.
 */
import type { Duplex } from "node:stream";
import { type ByteParser, parseStream, take } from "./byte-parser.ts";
import { NbdProtocolError, NbdRefused, NbdTlsFailed } from "./errors.ts";
import { type BlockSizes, type ExportInfo, freeBlockSizes, takeBlockSizes, takeExportInfo } from "./export-info.ts";
import { type OptionReply, optionRequest, optionsRefusal, takeOptionReply } from "./option-reply.ts";
import { startTls, type TlsSettings } from "./tls.ts";
import {
  greetingMagic,
  handshakeFlag,
  infoType,
  maxStringBytes,
  newstyleMagic,
  oldstyleMagic,
  option,
  optionReply,
} from "./wire.ts";

export interface HandshakeOptions {
  /** Empty for the server's default export. */
  readonly exportName: string;
  /** What block status shall be told of, as `base:allocation`. */
  readonly metaContexts: readonly string[];
  readonly tls?: TlsSettings;
}

/** What client and server agreed on. */
export interface Session {
  /** Speaks TLS if that was asked for. */
  readonly stream: Duplex;
  readonly info: ExportInfo;
  readonly blockSizes: BlockSizes;
  readonly structuredReplies: boolean;
  /** Names of the meta contexts that the server has, by their numbers of this connection. */
  readonly metaContexts: ReadonlyMap<number, string>;
}

interface Greeting {
  /** Whether the server answers options that it does not know, instead of hanging up. */
  readonly fixed: boolean;
  readonly noZeroes: boolean;
}

type Send = (bytes: Uint8Array) => void;

/**
 * Leads a fresh stream to the point where requests can be sent. It sets no limit of time.
 *
 * @throws NbdRefused, NbdTlsFailed, NbdProtocolError, NbdConnectionLost
 */
export async function handshake(plain: Duplex, options: HandshakeOptions): Promise<Session> {
  for (const text of [options.exportName, ...options.metaContexts]) assertShort(text);
  const greeting = await parse(plain, takeGreeting(sender(plain)));
  if (!options.tls) return { stream: plain, ...(await parse(plain, takeSession(sender(plain), greeting, options))) };
  if (!greeting.fixed) throw new NbdTlsFailed("The NBD server has no TLS: it takes no options.");
  await parse(plain, requestTls(sender(plain)));
  const stream = await startTls(plain, options.tls);
  try {
    return { stream, ...(await parse(stream, takeSession(sender(stream), greeting, options))) };
  } catch (error) {
    stream.destroy();
    throw error;
  }
}

/** What comes before it was asked for is no answer. Before TLS it could be somebody else's. */
async function parse<T>(stream: Duplex, parser: ByteParser<T>): Promise<T> {
  const { value, rest } = await parseStream(stream, parser);
  const unasked = rest.length + stream.readableLength;
  if (unasked > 0) throw new NbdProtocolError(`The server sent ${unasked} bytes that were not asked for.`);
  return value;
}

function sender(stream: Duplex): Send {
  return (bytes) => stream.write(bytes);
}

function assertShort(text: string): void {
  if (Buffer.byteLength(text) > maxStringBytes)
    throw new NbdRefused("TOO_BIG", "Names in NBD have at most 4,096 bytes.");
}

/** Reads the greeting and answers it. */
function* takeGreeting(send: Send): ByteParser<Greeting> {
  const bytes = yield* take(16);
  if (bytes.readBigUInt64BE(0) !== greetingMagic) throw new NbdProtocolError("The peer is not an NBD server.");
  const style = bytes.readBigUInt64BE(8);
  if (style === oldstyleMagic)
    throw new NbdProtocolError("The server speaks only oldstyle NBD, which is not supported.");
  if (style !== newstyleMagic) throw new NbdProtocolError("The server speaks no known style of NBD.");
  const flags = (yield* take(2)).readUInt16BE();
  const fixed = (flags & handshakeFlag.fixedNewstyle) !== 0;
  const noZeroes = (flags & handshakeFlag.noZeroes) !== 0;
  const answer = Buffer.alloc(4);
  answer.writeUInt32BE((fixed ? handshakeFlag.fixedNewstyle : 0) | (noZeroes ? handshakeFlag.noZeroes : 0));
  send(answer);
  return { fixed, noZeroes };
}

function* requestTls(send: Send): ByteParser<void> {
  send(optionRequest(option.startTls));
  const reply = yield* takeOptionReply(option.startTls);
  if (reply.error) throw new NbdTlsFailed(`The NBD server starts no TLS${reply.error.detail}.`);
  yield* expectAck(reply, option.startTls);
}

function* takeSession(send: Send, greeting: Greeting, options: HandshakeOptions): ByteParser<Omit<Session, "stream">> {
  const structuredReplies = greeting.fixed && (yield* agreeOnStructuredReplies(send));
  const metaContexts = structuredReplies ? yield* agreeOnMetaContexts(send, options) : new Map<number, string>();
  const opened = greeting.fixed ? yield* go(send, options.exportName) : undefined;
  const { info, blockSizes } = opened ?? (yield* enterByName(send, greeting, options.exportName));
  return { info, blockSizes, structuredReplies, metaContexts };
}

/** False where the server has none. That it may want TLS first is told here, too. */
function* agreeOnStructuredReplies(send: Send): ByteParser<boolean> {
  send(optionRequest(option.structuredReply));
  const reply = yield* takeOptionReply(option.structuredReply);
  if (reply.error?.code === "UNSUPPORTED" || reply.error?.code === "POLICY" || reply.error?.code === "INVALID")
    return false;
  if (reply.error) throw optionsRefusal(reply.error, "structured replies");
  yield* expectAck(reply, option.structuredReply);
  return true;
}

/** Contexts that the server does not have are left out of its answer. */
function* agreeOnMetaContexts(send: Send, options: HandshakeOptions): ByteParser<Map<number, string>> {
  const chosen = new Map<number, string>();
  if (options.metaContexts.length === 0) return chosen;
  send(optionRequest(option.setMetaContext, metaContextQueries(options)));
  for (;;) {
    const reply = yield* takeOptionReply(option.setMetaContext);
    if (reply.error?.code === "UNSUPPORTED") return chosen;
    if (reply.error) throw optionsRefusal(reply.error, `the export ${JSON.stringify(options.exportName)}`);
    if (reply.type === optionReply.ack) {
      yield* expectAck(reply, option.setMetaContext);
      return chosen;
    }
    const { id, name } = yield* takeMetaContext(reply);
    if (!options.metaContexts.includes(name) || chosen.has(id) || [...chosen.values()].includes(name)) {
      throw new NbdProtocolError("The server names a meta context that was not asked for, or names one twice.");
    }
    chosen.set(id, name);
  }
}

function metaContextQueries({ exportName, metaContexts }: HandshakeOptions): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(metaContexts.length);
  return Buffer.concat([lengthAndText(exportName), count, ...metaContexts.map(lengthAndText)]);
}

function lengthAndText(text: string): Buffer {
  const bytes = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

function* takeMetaContext(reply: OptionReply): ByteParser<{ id: number; name: string }> {
  if (reply.type !== optionReply.metaContext || reply.length < 4 || reply.length > 4 + maxStringBytes) {
    throw new NbdProtocolError("The server's answer about meta contexts is malformed.");
  }
  const bytes = yield* take(reply.length);
  return { id: bytes.readUInt32BE(0), name: bytes.toString("utf8", 4) };
}

interface Opened {
  readonly info: ExportInfo;
  readonly blockSizes: BlockSizes;
}

/**
 * Opens the export with GO; undefined where the server does not have it. Block sizes are asked for only when the server insists: one that
 * is not asked takes requests of any alignment.
 */
function* go(send: Send, exportName: string): ByteParser<Opened | undefined> {
  const first = yield* goOnce(send, exportName, false);
  if (!("error" in first)) return first;
  if (first.error.code === "UNSUPPORTED") return undefined;
  const second = first.error.code === "BLOCK_SIZE_REQUIRED" ? yield* goOnce(send, exportName, true) : first;
  if ("error" in second) throw optionsRefusal(second.error, `the export ${JSON.stringify(exportName)}`);
  return second;
}

function* goOnce(
  send: Send,
  exportName: string,
  askBlockSizes: boolean,
): ByteParser<Opened | { error: NonNullable<OptionReply["error"]> }> {
  const wanted = Buffer.from(askBlockSizes ? [0, 1, 0, infoType.blockSize] : [0, 0]);
  send(optionRequest(option.go, Buffer.concat([lengthAndText(exportName), wanted])));
  let info: ExportInfo | undefined;
  let blockSizes = freeBlockSizes;
  for (;;) {
    const reply = yield* takeOptionReply(option.go);
    if (reply.error) return { error: reply.error };
    if (reply.type === optionReply.ack) {
      yield* expectAck(reply, option.go);
      if (!info) throw new NbdProtocolError("The server opened an export without telling its size.");
      return { info, blockSizes };
    }
    if (reply.type !== optionReply.info || reply.length < 2 || reply.length > 2 + maxStringBytes) {
      throw new NbdProtocolError("The server's answer about the export is malformed.");
    }
    const type = (yield* take(2)).readUInt16BE();
    if (type === infoType.export && reply.length === 12) info = yield* takeExportInfo();
    else if (type === infoType.blockSize && reply.length === 14) {
      const sizes = yield* takeBlockSizes();
      if (askBlockSizes) blockSizes = sizes;
      else blockSizes = { ...freeBlockSizes, maximumPayloadBytes: sizes.maximumPayloadBytes };
    } else yield* take(reply.length - 2);
  }
}

/** The way without an answer: a server that does not have the export hangs up. */
function* enterByName(send: Send, greeting: Greeting, exportName: string): ByteParser<Opened> {
  send(optionRequest(option.exportName, Buffer.from(exportName)));
  const info = yield* takeExportInfo();
  if (!greeting.noZeroes) yield* take(124);
  return { info, blockSizes: freeBlockSizes };
}

function* expectAck(reply: OptionReply, asked: number): ByteParser<void> {
  if (reply.type !== optionReply.ack || reply.length > maxStringBytes) {
    throw new NbdProtocolError(`The server's answer to option ${asked} is malformed.`);
  }
  yield* take(reply.length);
}
