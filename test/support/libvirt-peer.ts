/** libvirt's side of a connection, played by a test: it reads calls and answers whatever the test wants. */
import { once } from "node:events";
import { type Duplex, duplexPair } from "node:stream";
import {
  frame,
  type Message,
  MessageFeed,
  messageStatus,
  messageType,
} from "../../lambdas/protocols/libvirt/message.ts";
import {
  blockJobEvent,
  errorMessage,
  type ProcedureName,
  procedures,
  programs,
  type Result,
} from "../../lambdas/protocols/libvirt/procedures.ts";
import { decode, encode, type Value, type XdrType } from "../../lambdas/protocols/libvirt/xdr.ts";

export interface ReceivedCall {
  readonly name: ProcedureName;
  readonly serial: number;
  readonly args: unknown;
}

export class LibvirtPeer {
  readonly stream: Duplex;
  /** Procedures of keepalive messages that came. */
  readonly keepalives: number[] = [];
  readonly #feed = new MessageFeed();
  readonly #calls: ReceivedCall[] = [];
  readonly #arrivals = new EventTarget();

  constructor(stream: Duplex) {
    this.stream = stream;
    stream.on("error", () => {});
    stream.on("data", (bytes: Buffer) => {
      for (const message of this.#feed.push(bytes)) this.#take(message);
      this.#arrivals.dispatchEvent(new Event("arrival"));
    });
    stream.on("close", () => this.#arrivals.dispatchEvent(new Event("arrival")));
    stream.on("end", () => this.#arrivals.dispatchEvent(new Event("arrival")));
  }

  #take({ header, payload }: Message): void {
    if (header.program === programs.keepalive) {
      this.keepalives.push(header.procedure);
      return;
    }
    const found = Object.entries(procedures).find(
      ([, { program, number }]) => program === header.program && number === header.procedure,
    );
    if (!found) throw new Error("This is no call.");
    const name = found[0] as ProcedureName;
    this.#calls.push({ name, serial: header.serial, args: decode(procedures[name].args as XdrType<unknown>, payload) });
  }

  /** The next call. Throws when the client has ended first. */
  async takeCall(): Promise<ReceivedCall> {
    for (;;) {
      const call = this.#calls.shift();
      if (call) return call;
      if (this.stream.destroyed || this.stream.readableEnded) throw new Error("The client has ended.");
      await once(this.#arrivals, "arrival");
    }
  }

  /** Waits for a keepalive message. */
  async takeKeepalive(): Promise<number> {
    while (this.keepalives.length === 0) await once(this.#arrivals, "arrival");
    return this.keepalives.shift()!;
  }

  reply<P extends ProcedureName>({ serial }: { serial: number }, name: P, result: Result<P>): void {
    const { program, number, result: type } = procedures[name];
    const header = { program, procedure: number, type: messageType.reply, serial, status: messageStatus.ok };
    this.stream.write(frame(header, encode(type as XdrType<unknown>, result)));
  }

  fail({ serial, name }: ReceivedCall, code: number, message: string): void {
    const { program, number } = procedures[name];
    const header = { program, procedure: number, type: messageType.reply, serial, status: messageStatus.error };
    const nothing = { vm: undefined, text1: undefined, text2: undefined, text3: undefined, network: undefined };
    const error = { code, domain: 10, message, level: 2, number1: -1, number2: -1, ...nothing };
    this.stream.write(frame(header, encode(errorMessage, error)));
  }

  blockJob(event: Value<typeof blockJobEvent.message>): void {
    const header = {
      program: programs.remote,
      procedure: blockJobEvent.number,
      type: messageType.event,
      serial: 0,
      status: messageStatus.ok,
    };
    this.stream.write(frame(header, encode(blockJobEvent.message, event)));
  }

  keepalive(procedure: number): void {
    const header = {
      program: programs.keepalive,
      procedure,
      type: messageType.event,
      serial: 0,
      status: messageStatus.ok,
    };
    this.stream.write(frame(header, Buffer.alloc(0)));
  }

  /** Answers what every connection begins with. */
  async open(): Promise<void> {
    this.reply(await this.takeCall(), "authList", { types: [0] });
    this.reply(await this.takeCall(), "connectOpen", undefined);
    this.reply(await this.takeCall(), "connectSupportsFeature", { supported: 1 });
  }
}

/** A client's stream whose other end is played by `script`. The script's own failure destroys the stream and is told by `played`. */
export function playLibvirt(script: (peer: LibvirtPeer) => Promise<void>): { stream: Duplex; played: Promise<void> } {
  const [stream, other] = duplexPair();
  const played = script(new LibvirtPeer(other)).catch((error: unknown) => {
    other.destroy();
    throw error;
  });
  played.catch(() => {});
  return { stream, played };
}
