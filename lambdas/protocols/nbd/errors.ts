/** What can go wrong between an NBD client and its server, one class for each thing that a caller can act on. */
import type { OptionErrorCode, RequestErrorCode } from "./wire.ts";

export abstract class NbdError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** The server does not keep to the protocol. The connection is closed. */
export class NbdProtocolError extends NbdError {
  static override readonly name = "NbdProtocolError";
}
/** The connection ended with requests unanswered, or before the handshake was done. */
export class NbdConnectionLost extends NbdError {
  static override readonly name = "NbdConnectionLost";
}
/** The server did not answer in time. The connection is closed, because its late answer could still come. */
export class NbdTimedOut extends NbdError {
  static override readonly name = "NbdTimedOut";
}
/** There is no encrypted connection: the server has no TLS, or its certificate does not prove who it is. Nothing was sent in plain. */
export class NbdTlsFailed extends NbdError {
  static override readonly name = "NbdTlsFailed";
}
/** The request cannot be sent: it leads beyond the export, or the export does not allow it. */
export class NbdRequestInvalid extends NbdError {
  static override readonly name = "NbdRequestInvalid";
}

/** The server refuses the export or something that is needed for it. */
export class NbdRefused extends NbdError {
  static override readonly name = "NbdRefused";
  readonly code: OptionErrorCode;

  constructor(code: OptionErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

/** The server carried a request out in part or not at all. The connection goes on. */
export class NbdRequestFailed extends NbdError {
  static override readonly name = "NbdRequestFailed";
  readonly code: RequestErrorCode;
  /** Where in the export the error lies, in bytes, if the server tells. */
  readonly offset: number | undefined;

  constructor(code: RequestErrorCode, message: string, offset?: number) {
    super(message);
    this.code = code;
    this.offset = offset;
  }
}
