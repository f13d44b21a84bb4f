/** One JSON object with one list, printed as its items come: what is printed need not fit into memory. */
import type { Terminal } from "../terminal.ts";

export class JsonStream {
  readonly #terminal: Pick<Terminal, "out">;
  #items = 0;

  /** `head` are the object's members before the list `list`. */
  constructor(terminal: Pick<Terminal, "out">, head: Readonly<Record<string, unknown>>, list: string) {
    this.#terminal = terminal;
    const members = Object.entries({ ...head, [list]: [] }).map(([name, value]) => `  ${text(name)}: ${text(value)}`);
    terminal.out(`{\n${members.join(",\n").slice(0, -1)}`);
  }

  item(item: unknown): void {
    this.#terminal.out(
      `${this.#items++ === 0 ? "" : ","}\n    ${JSON.stringify(item, null, 2).replaceAll("\n", "\n    ")}`,
    );
  }

  /** `tail` are the object's members after the list. */
  end(tail: Readonly<Record<string, unknown>> = {}): void {
    const members = Object.entries(tail).map(([name, value]) => `,\n  ${text(name)}: ${text(value)}`);
    this.#terminal.out(`${this.#items === 0 ? "" : "\n  "}]${members.join("")}\n}\n`);
  }
}

function text(value: unknown): string {
  return JSON.stringify(value);
}
