/**
 * Numbers of the NBD protocol, from its specification (`doc/proto.md` of the NetworkBlockDevice project). All integers on the wire are
 * unsigned and big-endian.
 */

export const greetingMagic = 0x4e42_444d_4147_4943n;
/** Also begins every option of the client. */
export const newstyleMagic = 0x4948_4156_454f_5054n;
/** Oldstyle: no exports, no options, no TLS. */
export const oldstyleMagic = 0x0000_4202_8186_1253n;
export const optionReplyMagic = 0x0003_e889_0455_65a9n;
export const requestMagic = 0x2560_9513;
export const simpleReplyMagic = 0x6744_6698;
export const structuredReplyMagic = 0x668e_33ef;

/** Flags that server and client exchange before options. */
export const handshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const option = {
  exportName: 1,
  startTls: 5,
  go: 7,
  structuredReply: 8,
  setMetaContext: 10,
} as const;

export const optionReply = { ack: 1, info: 3, metaContext: 4 } as const;

/** Set in the type of every option reply that is an error. */
export const optionErrorBit = 0x8000_0000;

/** Names of the option errors, by their type without the error bit. */
export const optionErrors: ReadonlyMap<number, OptionErrorCode> = new Map([
  [1, "UNSUPPORTED"],
  [2, "POLICY"],
  [3, "INVALID"],
  [4, "PLATFORM"],
  [5, "TLS_REQUIRED"],
  [6, "UNKNOWN_EXPORT"],
  [7, "SHUTDOWN"],
  [8, "BLOCK_SIZE_REQUIRED"],
  [9, "TOO_BIG"],
  [10, "EXTENDED_HEADERS_REQUIRED"],
]);

export type OptionErrorCode =
  | "UNSUPPORTED"
  | "POLICY"
  | "INVALID"
  | "PLATFORM"
  | "TLS_REQUIRED"
  | "UNKNOWN_EXPORT"
  | "SHUTDOWN"
  | "BLOCK_SIZE_REQUIRED"
  | "TOO_BIG"
  | "EXTENDED_HEADERS_REQUIRED"
  | "OTHER";

export const infoType = { export: 0, blockSize: 3 } as const;

export const transmissionFlag = {
  readOnly: 1 << 1,
  flush: 1 << 2,
  trim: 1 << 5,
  writeZeroes: 1 << 6,
  multipleConnections: 1 << 8,
} as const;

export const command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export type CommandName = keyof typeof command;

/** Types of the chunks of a structured reply. */
export const chunk = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;

/** Set in the type of every chunk that tells an error, also of ones that are not known. */
export const chunkErrorBit = 0x8000;

/** In the flags of a chunk: the reply is complete. */
export const chunkDone = 1;

/** The errors of a request, by their number. */
export const requestErrors: ReadonlyMap<number, RequestErrorCode> = new Map([
  [1, "EPERM"],
  [5, "EIO"],
  [12, "ENOMEM"],
  [22, "EINVAL"],
  [28, "ENOSPC"],
  [75, "EOVERFLOW"],
  [95, "ENOTSUP"],
  [108, "ESHUTDOWN"],
]);

export type RequestErrorCode =
  | "EPERM"
  | "EIO"
  | "ENOMEM"
  | "EINVAL"
  | "ENOSPC"
  | "EOVERFLOW"
  | "ENOTSUP"
  | "ESHUTDOWN"
  | "OTHER";

/** No string of the protocol is longer, in bytes. */
export const maxStringBytes = 4096;

/** The most that a read or write may carry where the server names no limit of its own. */
export const maxPayloadBytes = 32 * 1024 * 1024;
