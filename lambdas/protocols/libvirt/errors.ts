/** What can go wrong between a client and libvirt, one class for each thing that a caller can act on. */

import { printable } from "../printable.ts";

export abstract class LibvirtError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** The peer does not keep to the protocol. The connection is closed. */
export class LibvirtProtocolError extends LibvirtError {
  static override readonly name = "LibvirtProtocolError";
}
/** The connection ended with calls unanswered, or does not answer keepalive any more. */
export class LibvirtConnectionLost extends LibvirtError {
  static override readonly name = "LibvirtConnectionLost";
}
/** A call was not answered in time. What it asked for may still happen; the connection goes on. */
export class LibvirtTimedOut extends LibvirtError {
  static override readonly name = "LibvirtTimedOut";
}
/** libvirt wants a login that this client does not have. */
export class LibvirtLoginRequired extends LibvirtError {
  static override readonly name = "LibvirtLoginRequired";
}
/** An argument does not fit into the protocol: a text that is too long, a number out of range. */
export class LibvirtArgumentInvalid extends LibvirtError {
  static override readonly name = "LibvirtArgumentInvalid";
}

/** libvirt carried a call out in part or not at all. */
export class LibvirtCallFailed extends LibvirtError {
  static override readonly name = "LibvirtCallFailed";
  /** Name of {@link errorCodes}; `OTHER` for a number that is not in it. */
  readonly code: ErrorCode;
  readonly number: number;
  /** Number of the part of libvirt that failed, as `virErrorDomain` has it. */
  readonly domain: number;

  constructor(procedure: string, number: number, domain: number, text: string) {
    const code = codesByNumber.get(number) ?? "OTHER";
    super(
      `libvirt failed ${procedure}: ${printable(text) || "no reason given"} (${code === "OTHER" ? number : code}).`,
    );
    this.code = code;
    this.number = number;
    this.domain = domain;
  }
}

/** Those of `virErrorNumber` that a caller may want to tell apart. */
export const errorCodes = {
  INTERNAL_ERROR: 1,
  NO_SUPPORT: 3,
  INVALID_ARG: 8,
  OPERATION_FAILED: 9,
  XML_ERROR: 27,
  DOMAIN_EXISTS: 28,
  OPERATION_DENIED: 29,
  XML_DETAIL: 35,
  SYSTEM_ERROR: 38,
  NO_DOMAIN: 42,
  AUTH_FAILED: 45,
  NO_STORAGE_POOL: 49,
  NO_STORAGE_VOLUME: 50,
  OPERATION_INVALID: 55,
  CONFIG_UNSUPPORTED: 67,
  OPERATION_TIMEOUT: 68,
  NO_DOMAIN_SNAPSHOT: 72,
  ARGUMENT_UNSUPPORTED: 74,
  OPERATION_ABORTED: 78,
  BLOCK_COPY_ACTIVE: 83,
  OPERATION_UNSUPPORTED: 84,
  AGENT_UNRESPONSIVE: 86,
  RESOURCE_BUSY: 87,
  ACCESS_DENIED: 88,
  STORAGE_VOLUME_EXISTS: 90,
  AUTH_UNAVAILABLE: 94,
  AGENT_UNSYNCED: 97,
  DEVICE_MISSING: 99,
} as const;

export type ErrorCode = keyof typeof errorCodes | "OTHER";

const codesByNumber = new Map<number, ErrorCode>(
  Object.entries(errorCodes).map(([name, number]) => [number, name as ErrorCode]),
);
