/** The small files of a merge. They lie beside the overlay, so that they are as durable as it is and every host that has it sees them. */
import { dirname, join } from "node:path";
import { DetachedCommand } from "./detached-command.ts";
import type { KvmHost } from "./host.ts";
import { hiddenPrefix, overlayOf } from "./overlay-path.ts";

/** Arguments: the overlay, the note, and the prefix of the files of the command. */
const lookScript = `[ ! -e "$1" ] || echo overlay; [ ! -e "$2" ] || echo note; [ ! -e "$3.lock" ] || flock --nonblock "$3.lock" true || echo merges`;

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

  /** Which of them are there, and whether the merge of a stopped VM works. */
  async look(host: KvmHost): Promise<{ overlay: boolean; noted: boolean; merges: boolean }> {
    const words = await host.script("look", lookScript, [this.overlay, this.note, this.#prefix]);
    const [overlay, noted, merges] = ["overlay", "note", "merges"].map((word) => words.includes(`${word}\n`));
    return { overlay: overlay!, noted: noted!, merges: merges! };
  }

  /** The merge of a stopped VM. */
  command(host: KvmHost): DetachedCommand {
    return new DetachedCommand(host, this.#prefix);
  }
}
