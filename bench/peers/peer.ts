import type { Contender } from "../contender.ts";

export interface Toolbox {
  /** Where peers are installed, once for all runs. */
  readonly directory: string;
  readonly note: (text: string) => void;
}

export interface Peer {
  readonly name: string;
  /** Installs it if need be. Throws BenchmarkError with the reason when it cannot be had here. */
  install(toolbox: Toolbox): Promise<Contender>;
}
