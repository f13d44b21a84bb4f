/**
 * A VM's definition as libvirt has it: read for what is needed, changed in place. All else in it, also what this version does not know,
 * stays as the host sent it.
 */
import { type Document, type Element, type Node, XMLSerializer } from "@xmldom/xmldom";
import { OperationRefused } from "../../domain/errors.ts";
import { append, attribute, child, children, parseXml, setText, textOf } from "./xml.ts";

/** A disk, or a drive for discs. */
export interface DomainDisk {
  /** As the VM's definition names it, `vda`; unique within the VM. */
  readonly target: string;
  readonly device: "disk" | "cdrom" | "floppy" | "lun";
  /** As `virtio`, `scsi`, `sata`. */
  readonly bus: string | undefined;
  /** `file`; `block`, `network`, `volume` and others are not files. */
  readonly type: string;
  /** `raw`, `qcow2` and others; undefined where the definition leaves it open. */
  readonly format: string | undefined;
  /** Absolute path of the file on top of the chain; undefined for an empty drive, and for what is no file. */
  readonly file: string | undefined;
  /**
   * Paths of the files below {@link file}, downwards. Complete for a VM that runs; in a definition that was not started libvirt leaves it
   * out, and it is empty.
   */
  readonly backing: readonly string[];
  /** What a job of libvirt writes a copy of this disk to. */
  readonly mirror: DiskMirror | undefined;
  /** Order of booting, the smallest first. */
  readonly bootOrder: number | undefined;
  /** Whether several VMs may use it at once. */
  readonly shareable: boolean;
}

export interface DiskMirror {
  /** `active-commit` or `copy`. */
  readonly job: string | undefined;
  readonly file: string | undefined;
  /** Whether the job is ready to be ended. */
  readonly ready: boolean;
}

export interface NewDisk {
  readonly file: string;
  readonly format: "raw" | "qcow2";
  /** Default: the first free name of the bus. */
  readonly target?: string;
  /** Default `virtio`. */
  readonly bus?: string;
}

/** Names of targets begin with this, by bus. */
const targetPrefixes: Readonly<Record<string, string>> = { virtio: "vd", ide: "hd", fdc: "fd" };
const defaultTargetPrefix = "sd";

/** Of what type another VM's are: a terminal, and a socket that libvirt names after the VM. */
const characterDevices = { serial: "pty", parallel: "pty", console: "pty", channel: "unix" } as const;
/** These name a file, socket, port or device of the host. Two VMs that have the same would write over or take over each other's. */
const hostCharacterTypes: ReadonlySet<string | null> = new Set(["file", "unix", "tcp", "udp", "pipe", "dev"]);
/** Consoles that are servers; others are windows on the host, or nothing at all. */
const networkConsoles: ReadonlySet<string | null> = new Set(["vnc", "spice", "rdp"]);

export class DomainXml {
  readonly #document: Document;

  /** Throws HypervisorFailed for what is no definition of a VM. */
  constructor(xml: string) {
    this.#document = parseXml(xml, "domain").ownerDocument!;
  }

  get #root(): Element {
    return this.#document.documentElement!;
  }

  get name(): string {
    return textOf(child(this.#root, "name")) ?? "";
  }

  get uuid(): string {
    return textOf(child(this.#root, "uuid")) ?? "";
  }

  /** How the guest agent stands; undefined without a channel for it. `unknown` for a VM that does not run. */
  get guestAgent(): "connected" | "disconnected" | "unknown" | undefined {
    for (const channel of children(this.#devices, "channel")) {
      const target = child(channel, "target");
      if (attribute(target, "name") !== "org.qemu.guest_agent.0") continue;
      const state = attribute(target, "state");
      return state === "connected" || state === "disconnected" ? state : "unknown";
    }
    return undefined;
  }

  get disks(): readonly DomainDisk[] {
    return children(this.#devices, "disk").map(describeDisk);
  }

  /** Without drives for discs. The first is the root disk. */
  get disksToBoot(): readonly DomainDisk[] {
    const last = Number.MAX_SAFE_INTEGER;
    return this.disks
      .filter(({ device }) => device === "disk" || device === "lun")
      .toSorted((a, b) => (a.bootOrder ?? last) - (b.bootOrder ?? last));
  }

  disk(target: string): DomainDisk | undefined {
    return this.disks.find((disk) => disk.target === target);
  }

  /** The element of one disk, to be handed to libvirt. Throws OperationRefused if there is none. */
  diskXml(target: string): string {
    return serialize(this.#diskElement(target));
  }

  /**
   * Lets a disk use another file. What lies below that is written in the file itself. A drive gets another disc in this way. Throws
   * OperationRefused if there is no such disk.
   */
  setDiskFile(target: string, file: string, format: string): void {
    const disk = this.#diskElement(target);
    for (const name of ["source", "backingStore", "mirror"])
      for (const one of children(disk, name)) disk.removeChild(one);
    disk.setAttribute("type", "file");
    const driver = child(disk, "driver") ?? this.#insertFirst(disk, "driver", { name: "qemu" });
    driver.setAttribute("type", format);
    const source = this.#element("source", { file });
    disk.insertBefore(source, child(disk, "target") ?? null);
  }

  /** Lets libvirt look anew at what lies below a disk's file. Throws OperationRefused if there is no such disk. */
  forgetBacking(target: string): void {
    const disk = this.#diskElement(target);
    for (const one of children(disk, "backingStore")) disk.removeChild(one);
  }

  /** Takes the disc out of a drive. Throws OperationRefused if there is no such drive. */
  eject(target: string): void {
    const disk = this.#diskElement(target);
    for (const name of ["source", "backingStore"]) for (const one of children(disk, name)) disk.removeChild(one);
  }

  /** Adds a disk and returns its target. Throws OperationRefused when the target is taken. */
  addDisk(disk: NewDisk): string {
    const { file, format, bus = "virtio" } = disk;
    const target = disk.target ?? this.freeTarget(bus);
    if (this.disk(target)) throw new OperationRefused(`${this.name} has a disk ${target} already.`);
    const element = this.#element("disk", { type: "file", device: "disk" });
    element.appendChild(this.#element("driver", { name: "qemu", type: format }));
    element.appendChild(this.#element("source", { file }));
    element.appendChild(this.#element("target", { dev: target, bus }));
    this.#devices.appendChild(element);
    return target;
  }

  /** Adds a drive with a disc and returns its target. */
  addDrive(file: string): string {
    // IDE drives are what the oldest machine type has; all others have SATA.
    const bus = /^(?:pc|pc-i440fx-.*)$/.test(attribute(child(child(this.#root, "os"), "type"), "machine") ?? "")
      ? "ide"
      : "sata";
    const target = this.freeTarget(bus);
    const element = this.#element("disk", { type: "file", device: "cdrom" });
    element.appendChild(this.#element("driver", { name: "qemu", type: "raw" }));
    element.appendChild(this.#element("source", { file }));
    element.appendChild(this.#element("target", { dev: target, bus }));
    element.appendChild(this.#element("readonly"));
    this.#devices.appendChild(element);
    return target;
  }

  /** Takes a disk out of the definition. Throws OperationRefused if there is none. */
  removeDisk(target: string): void {
    const element = this.#diskElement(target);
    element.parentNode!.removeChild(element);
  }

  /** The first name for a disk of this bus that no disk has, `vdb`. */
  freeTarget(bus: string): string {
    const taken = new Set(this.disks.map(({ target }) => target));
    const prefix = targetPrefixes[bus] ?? defaultTargetPrefix;
    for (let index = 0; ; index++) {
      const target = prefix + letters(index);
      if (!taken.has(target)) return target;
    }
  }

  /**
   * Makes it the definition of another VM: under this name, with a UUID and addresses of network cards of its own, which libvirt makes up,
   * and without what belongs to one host's VM only. Its consoles can be reached from the host itself alone: their passwords are secrets, which
   * a saved definition does not have.
   */
  becomeAnother(name: string): void {
    setText(child(this.#root, "name") ?? this.#insertFirst(this.#root, "name"), name);
    for (const one of children(this.#root, "uuid")) this.#root.removeChild(one);
    this.#forgetSmbiosUuid();
    const os = child(this.#root, "os");
    // The variables of a UEFI firmware are a file that only one VM may have; libvirt makes another from the template.
    const nvram = child(os, "nvram");
    if (os && nvram) os.removeChild(nvram);
    for (const card of children(this.#devices, "interface")) {
      for (const one of [...children(card, "mac"), ...children(card, "target")]) card.removeChild(one);
    }
    for (const [name, type] of Object.entries(characterDevices)) {
      for (const device of children(this.#devices, name)) {
        for (const one of children(device, "log")) device.removeChild(one);
        if (!hostCharacterTypes.has(device.getAttribute("type"))) continue;
        device.setAttribute("type", type);
        for (const one of [...children(device, "source"), ...children(device, "protocol")]) device.removeChild(one);
      }
    }
    for (const graphics of children(this.#devices, "graphics")) {
      if (!networkConsoles.has(graphics.getAttribute("type"))) continue;
      for (const one of children(graphics, "listen")) graphics.removeChild(one);
      for (const name of ["port", "tlsPort", "websocket", "socket"]) graphics.removeAttribute(name);
      graphics.setAttribute("autoport", "yes");
      graphics.setAttribute("listen", "127.0.0.1");
    }
  }

  /** Where there is one, libvirt takes it for the VM's. */
  #forgetSmbiosUuid(): void {
    for (const system of children(this.#root, "sysinfo").flatMap((info) => children(info, "system")))
      for (const entry of children(system, "entry"))
        if (entry.getAttribute("name") === "uuid") system.removeChild(entry);
  }

  toString(): string {
    return serialize(this.#document);
  }

  get #devices(): Element {
    return child(this.#root, "devices") ?? append(this.#root, this.#element("devices"));
  }

  #diskElement(target: string): Element {
    const element = children(this.#devices, "disk").find((disk) => attribute(child(disk, "target"), "dev") === target);
    if (!element) throw new OperationRefused(`${this.name} has no disk ${target}.`);
    return element;
  }

  #element(name: string, attributes: Readonly<Record<string, string>> = {}): Element {
    const element = this.#document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  #insertFirst(parent: Element, name: string, attributes: Readonly<Record<string, string>> = {}): Element {
    const element = this.#element(name, attributes);
    parent.insertBefore(element, parent.firstChild);
    return element;
  }
}

function serialize(node: Node): string {
  return new XMLSerializer().serializeToString(node);
}

function describeDisk(disk: Element): DomainDisk {
  const mirror = child(disk, "mirror");
  const order = attribute(child(disk, "boot"), "order");
  return {
    target: attribute(child(disk, "target"), "dev") ?? "",
    device: (attribute(disk, "device") ?? "disk") as DomainDisk["device"],
    bus: attribute(child(disk, "target"), "bus"),
    type: attribute(disk, "type") ?? "file",
    format: attribute(child(disk, "driver"), "type"),
    file: attribute(child(disk, "source"), "file"),
    backing: [...backingFiles(disk)],
    mirror: mirror && {
      job: attribute(mirror, "job"),
      file: attribute(child(mirror, "source"), "file") ?? attribute(mirror, "file"),
      ready: attribute(mirror, "ready") === "yes",
    },
    bootOrder: order === undefined ? undefined : Number(order),
    shareable: child(disk, "shareable") !== undefined,
  };
}

function* backingFiles(disk: Element): Generator<string> {
  for (let layer = child(disk, "backingStore"); layer; layer = child(layer, "backingStore")) {
    const file = attribute(child(layer, "source"), "file");
    if (file === undefined) return;
    yield file;
  }
}

/** `a` to `z`, `aa` and on, as Linux counts disks. */
function letters(index: number): string {
  const last = String.fromCharCode("a".charCodeAt(0) + (index % 26));
  return index < 26 ? last : letters(Math.floor(index / 26) - 1) + last;
}
