/**
 * A volume that gets back the bytes that it had: they are written to a hidden file beside the volume's own, and the two are exchanged when
 * all is there. The VM's definition stays as it is. From the beginning to the end a qemu-nbd has the own file open, and from the exchange on
 * another has the new one: QEMU's locks keep a VM from starting on either. Each step may run twice.
 */
import { dirname, join } from "node:path";
import { ChainChanged, HypervisorFailed, OperationRefused, VolumeNotFound } from "../../domain/errors.ts";
import type { NewVolume, VolumeWriter } from "../port.ts";
import { type AttachedVolume, findVolume } from "./discovery.ts";
import { closeScript, openScript } from "./export-scripts.ts";
import type { KvmHost } from "./host.ts";
import { readHostImages } from "./host-images.ts";
import { type ImageFormat, imageFormats } from "./image-chain.ts";
import { describeImage } from "./image-probe.ts";
import { hiddenPrefix } from "./overlay-path.ts";
import { changed, createScript, exchangeScript, lookScript, putBackScript } from "./replaced-volume-scripts.ts";
import { writeImage } from "./restored-volume.ts";
import { readDefinition } from "./vm-operations-disks.ts";
import { requirePresence } from "./volume-presence.ts";

/** As QEMU words it: another process has the file open. */
const lockRefused = /Failed to get (?:shared )?"[a-z ]+" lock|Is another process using the image/;

/** Which of the two files a server keeps from being used; each lies in a folder of its own. */
type Guarded = "old" | "new";
const folders: Readonly<Record<Guarded, string>> = { old: "guards", new: "restores" };

interface Found {
  /** Of the unfinished file; undefined when there is none. */
  readonly format: ImageFormat | undefined;
  /** Whether the old file has its second name. */
  readonly isKept: boolean;
  /** Whether the own path is a file, and no link to one. */
  readonly isFile: boolean;
}

export class ReplacedVolume {
  readonly #host: KvmHost;
  readonly #volume: NewVolume;
  readonly #own: string;
  readonly #kept: string;
  readonly #stem: string;

  /** `replaces` of the volume: its externalId. */
  constructor(host: KvmHost, volume: NewVolume, replaces: string) {
    this.#host = host;
    this.#volume = volume;
    this.#own = replaces;
    this.#stem = join(dirname(replaces), `${hiddenPrefix}${volume.restoreId}`);
    this.#kept = `${this.#stem}.replaced`;
  }

  /** @throws VolumeNotFound, PrimaryStorageFull; OperationRefused while a VM or an image needs the file as it is */
  async create(): Promise<void> {
    const { format: begun, isKept } = await this.#requireFile();
    if (isKept) return;
    const format = begun ?? (await this.#formatToWrite());
    await this.#guard("old", this.#own, format);
    if (begun === undefined) await this.#run("qemu-img create", createScript, [format, `${this.#volume.sizeBytes}`]);
  }

  /** Throws VolumeNotFound. */
  async openWriter(): Promise<VolumeWriter> {
    const { format } = await this.#look();
    if (format === undefined) throw this.#notFound();
    const { restoreId, sizeBytes } = this.#volume;
    return writeImage(this.#host, { restoreId, sizeBytes, path: `${this.#stem}.${format}`, format });
  }

  /** Exchanges the files, and returns the externalId. @throws OperationRefused, VolumeNotFound, ChainChanged */
  async publish(): Promise<string> {
    const { format, isKept } = await this.#requireFile();
    if (format === undefined) {
      if (!isKept) throw this.#notFound();
      await this.#guard("new", this.#own, await this.#formatOfOwn());
      return this.#own;
    }
    await this.#release("new");
    await this.#guard("old", this.#own, format);
    await this.#guard("new", `${this.#stem}.${format}`, format);
    await this.#run("exchange", exchangeScript, [format]);
    return this.#own;
  }

  /** Puts the old file back. @throws HypervisorFailed while a VM runs on the new one */
  async discard(): Promise<void> {
    const { format, isKept, isFile } = await this.#look();
    if (isKept && isFile && format === undefined) {
      const guard = this.#guard("new", this.#own, await this.#formatOfOwn());
      await guard.catch((error: unknown) => {
        if (!(error instanceof OperationRefused)) throw error;
        throw new HypervisorFailed(`The former ${this.#own} is not put back yet: ${error.message}`, { cause: error });
      });
    } else await this.#release("new");
    await this.#run("put-back", putBackScript);
    await this.#release("new");
    await this.#release("old");
  }

  /** Deletes the old file, and lets VMs start on the new one. */
  async forgetReplaced(): Promise<void> {
    await this.#look();
    await this.#host.run(["rm", "-f", "--", this.#kept]);
    await this.#release("old");
    await this.#release("new");
  }

  /** As the definitions say what the file is; of one that no VM has, as it looks. */
  async #formatOfOwn(): Promise<ImageFormat> {
    const [attached] = await findVolume(this.#host, this.#own);
    return attached ? formatOf(attached) : (await describeImage(this.#host, this.#own)).format;
  }

  /** {@link #formatOfOwn} of a file that nothing but a stopped VM needs. */
  async #formatToWrite(): Promise<ImageFormat> {
    for (const attached of await findVolume(this.#host, this.#own)) await this.#requireUnused(attached);
    await this.#requireAlone();
    return this.#formatOfOwn();
  }

  async #requireUnused({ vm: { domain, isActive }, disk }: AttachedVolume): Promise<void> {
    const { name } = domain;
    if (isActive) throw new OperationRefused(`${name} runs: a disk is restored in place only while its VM is stopped.`);
    if (disk.file !== this.#own)
      throw new OperationRefused(
        `${name} uses ${disk.file}, which stands on ${this.#own}: its copies are not all gone.`,
      );
    const { result } = await this.#host.call("domainHasManagedSave", { domain, flags: 0 });
    if (result !== 0)
      throw new OperationRefused(`${name} was stopped with its memory saved, which belongs to the disk as it is.`);
    const backing = (await readDefinition(this.#host, domain)).disk(disk.target)?.backing ?? [];
    if (backing.length > 0)
      throw new OperationRefused(
        `The definition of ${name} says that ${this.#own} stands on ${backing[0]}; a restored one stands alone. Restore to a new volume instead.`,
      );
  }

  /** Nobody else's image may stand on it, nor may a VM have it under another name. */
  async #requireAlone(): Promise<void> {
    const { standOn, using } = await readHostImages(this.#host, this.#own);
    const [above] = standOn(this.#own);
    if (above) throw new OperationRefused(`${above} stands on ${this.#own}, which cannot be replaced below it.`);
    const other = using(this.#own).find(({ disk }) => disk.file !== this.#own);
    if (!other) return;
    const { domain, disk } = other;
    throw new OperationRefused(
      `${domain.name} uses ${disk.file}, which is ${this.#own} or stands on it: it cannot be replaced.`,
    );
  }

  /** Throws VolumeNotFound. */
  async #requireFile(): Promise<Found> {
    const found = await this.#look();
    if (found.isFile) return found;
    throw new VolumeNotFound(`There is no volume ${this.#own} on ${this.#host.name}, or it is a link.`);
  }

  /** Throws HypervisorUnavailable when what is not there may only be away. */
  async #look(): Promise<Found> {
    const lines = (await this.#run("look", lookScript)).split("\n");
    const format = imageFormats.find((one) => lines.includes(`format ${one}`));
    const found = { format, isKept: lines.includes("kept"), isFile: lines.includes("file") };
    if (!format && !found.isKept && !found.isFile) await requirePresence(this.#host, this.#own);
    return found;
  }

  /** Lets a qemu-nbd that nobody talks to open the file for writing. Throws OperationRefused when another program has it open. */
  async #guard(which: Guarded, path: string, format: ImageFormat): Promise<void> {
    const { restoreId } = this.#volume;
    const record = JSON.stringify({ restoreId, path });
    try {
      const options = ["--persistent", `--format=${format}`, path];
      await this.#host.script("qemu-nbd", openScript, [await this.#folder(which), restoreId, record, ...options]);
    } catch (error) {
      if (!(error instanceof HypervisorFailed && lockRefused.test(error.message))) throw error;
      throw new OperationRefused(`${this.#own} is in use: stop its VM, or what else of the host has it open.`, {
        cause: error,
      });
    }
  }

  async #release(which: Guarded): Promise<void> {
    await this.#host.script("close-guard", closeScript, [await this.#folder(which), this.#volume.restoreId]);
  }

  async #folder(which: Guarded): Promise<string> {
    return `${await this.#host.ownFolder()}/${folders[which]}`;
  }

  async #run(name: string, script: string, more: readonly string[] = []): Promise<string> {
    const said = await this.#host.script(name, script, [this.#own, this.#kept, this.#stem, ...more]);
    if (said.trim() !== changed) return said;
    throw new ChainChanged(
      `${this.#own} is another file than when its restore began; the one of then is ${this.#kept}.`,
    );
  }

  #notFound(): VolumeNotFound {
    return new VolumeNotFound(`There is no unfinished volume of the restore ${this.#volume.restoreId}.`);
  }
}

function formatOf({ disk }: AttachedVolume): ImageFormat {
  // libvirt takes what is not said for raw; others are no volumes.
  return imageFormats.find((one) => one === (disk.format ?? "raw")) ?? "raw";
}
