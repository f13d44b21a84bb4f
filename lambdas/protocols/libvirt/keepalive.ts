/** libvirt's own keepalive: each side asks while it hears nothing, and answers when it is asked. */
import { frame, type Header, messageStatus, messageType } from "./message.ts";
import { programs } from "./procedures.ts";

const ping = 1;
const pong = 2;

export interface KeepaliveOptions {
  /** Of silence, after which the peer is asked. */
  readonly intervalMs: number;
  /** How many questions may stay without any sign of life. */
  readonly misses: number;
}

export class Keepalive {
  readonly #options: KeepaliveOptions;
  readonly #send: (bytes: Buffer) => void;
  readonly #timer: NodeJS.Timeout;
  #unanswered = 0;
  #heard = false;

  /** `dead` is called once when the peer gives no sign of life any more. */
  constructor(options: KeepaliveOptions, send: (bytes: Buffer) => void, dead: () => void) {
    this.#options = options;
    this.#send = send;
    this.#timer = setInterval(() => this.#tick(dead), options.intervalMs);
  }

  /** Whatever came is a sign of life. */
  heard(): void {
    this.#heard = true;
    this.#unanswered = 0;
  }

  /** Takes a message of the keepalive program. */
  take(procedure: number): void {
    if (procedure === ping) this.#send(message(pong));
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #tick(dead: () => void): void {
    if (this.#heard) {
      this.#heard = false;
      return;
    }
    if (this.#unanswered >= this.#options.misses) {
      this.stop();
      dead();
      return;
    }
    this.#unanswered++;
    this.#send(message(ping));
  }
}

function message(procedure: number): Buffer {
  const header: Header = {
    program: programs.keepalive,
    procedure,
    type: messageType.event,
    serial: 0,
    status: messageStatus.ok,
  };
  return frame(header, Buffer.alloc(0));
}
