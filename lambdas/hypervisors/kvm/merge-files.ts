/** The small files of a merge. They lie beside the overlay, so that they are as durable as it is and every host that has it sees them. */
import { dirname, join } from "node:path";
import { commandFiles, DetachedCommand } from "./detached-command.ts";
import type { KvmHost } from "./host.ts";
import { hiddenPrefix, overlayOf } from "./overlay-path.ts";

/** Arguments: the overlay, the note, and the prefix of the files of the command. */
const lookScript = `
[ ! -e "$1" ] || echo overlay
[ ! -e "$2" ] || echo note
for file in "$2" "$3.lock" "$3.pid" "$3.log"; do [ ! -e "$file" ] || { echo left; break; }; done
[ ! -e "$3.lock" ] || flock --nonblock "$3.lock" true || echo merges
`;

export class MergeFiles {
  readonly overlay: string;
  /** There when the overlay of a running VM is about to be merged: see `merge-plan.ts`. */
  readonly note: string;
  readonly #prefix: string;

  /** Throws PathOutsideDirectory. */
  constructor(installPath: string) {
    const { volume, snapshotId } = overlayOf(installPath);
    this.overlay = installPath;
    this.#prefix = join(dirname(volume), `${hiddenPrefix}${snapshotId}`);
    this.note = `${this.#prefix}.merging`;
  }

  /** What is there: the overlay, any small file of its merge, the note among them, and a merge of a stopped VM that works. */
  async look(host: KvmHost): Promise<{ overlay: boolean; noted: boolean; left: boolean; merges: boolean }> {
    const words = (await host.script("look", lookScript, [this.overlay, this.note, this.#prefix])).split("\n");
    const has = (word: string) => words.includes(word);
    return { overlay: has("overlay"), noted: has("note"), left: has("left"), merges: has("merges") };
  }

  /** All small files. */
  get small(): readonly string[] {
    return [this.note, ...commandFiles(this.#prefix)];
  }

  /** The merge of a stopped VM. */
  command(host: KvmHost): DetachedCommand {
    return new DetachedCommand(host, this.#prefix);
  }
}
