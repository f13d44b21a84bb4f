/** What can go wrong on the way to a host over SSH, one class for each thing that a caller can act on. No message holds a key or a passphrase. */

export abstract class SshError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** No connection to the port: the name is unknown, nobody is there, or the port is refused. */
export class SshUnreachable extends SshError {
  static override readonly name = "SshUnreachable";
}
/** Something took longer than it may. The message says what. */
export class SshTimedOut extends SshError {
  static override readonly name = "SshTimedOut";
}
/** The server does not take the user's key. */
export class SshKeyRejected extends SshError {
  static override readonly name = "SshKeyRejected";
}
/** The private key cannot be used: it is none, or its passphrase is wrong or missing. */
export class SshKeyUnusable extends SshError {
  static override readonly name = "SshKeyUnusable";
}
/** Client and server found no common ground, or the server does not speak SSH. */
export class SshProtocolError extends SshError {
  static override readonly name = "SshProtocolError";
}
/** The connection ended while it was needed. */
export class SshConnectionLost extends SshError {
  static override readonly name = "SshConnectionLost";
}
/** The server does not run the command or does not open the socket. */
export class SshRefused extends SshError {
  static override readonly name = "SshRefused";
}
/** An argument or path that no command line can hold: it has a NUL character or is no well-formed text. */
export class SshArgumentInvalid extends SshError {
  static override readonly name = "SshArgumentInvalid";
}
/** A command wrote more than it may. */
export class SshOutputTooLong extends SshError {
  static override readonly name = "SshOutputTooLong";
}

/**
 * The server's key is not the registered one: it was set up anew, or somebody stands in between. With nothing registered `expected`
 * is empty; the key that was found is for a person to compare, never to be taken over.
 */
export class SshHostKeyMismatch extends SshError {
  static override readonly name = "SshHostKeyMismatch";
  /** Fingerprints, as `SHA256:…`. */
  readonly expected: readonly string[];
  readonly found: string;

  constructor(host: string, keyType: string, found: string, expected: readonly string[]) {
    const known = expected.length === 0 ? "none is registered" : `registered: ${expected.join(", ")}`;
    super(`The host key of ${host} is not known: it is ${found} (${keyType}), ${known}.`);
    this.expected = expected;
    this.found = found;
  }
}
