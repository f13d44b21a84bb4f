/** A KVM host with a storage pool, on which VMs are made whose disks are the volumes of {@link hypervisorContract}. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { DomainXml } from "../../lambdas/hypervisors/kvm/domain-xml.ts";
import type { KvmHostSettings } from "../../lambdas/hypervisors/kvm/host.ts";
import { KvmHypervisor } from "../../lambdas/hypervisors/kvm/kvm-hypervisor.ts";
import { parseOverlayPath } from "../../lambdas/hypervisors/kvm/overlay-path.ts";
import { ownFolderPath } from "../../lambdas/hypervisors/kvm/own-folder.ts";
import { type LibvirtConnection, openLibvirt } from "../../lambdas/protocols/libvirt/connection.ts";
import { undefine } from "../../lambdas/protocols/libvirt/flags.ts";
import type { Domain, Pool } from "../../lambdas/protocols/libvirt/procedures.ts";
import { type Libvirtd, startLibvirtd } from "../../local/kvm-host/libvirtd.ts";
import { run, type WorkFolder, workFolder } from "../../local/kvm-host/processes.ts";
import { type Sshd, type SshdOptions, startSshd } from "../../local/kvm-host/sshd.ts";
import type { HypervisorSubject } from "../contract/hypervisor.ts";

const none = { flags: 0 };
/** Of what tests do themselves: an emulated VM starts in seconds, on a busy machine in a minute. */
const callTimeoutMs = 180_000;
const all = { needResults: 1, flags: 0 };

export interface DiskFile {
  readonly target: string;
  readonly path: string;
  readonly format: string;
}

/** The servers of a host, for all tests of a file. */
export class AdapterHost implements AsyncDisposable {
  readonly folder: WorkFolder;
  readonly libvirt: LibvirtConnection;
  readonly libvirtd: Libvirtd;
  readonly sshd: Sshd;
  #subjects = 0;

  private constructor(folder: WorkFolder, libvirtd: Libvirtd, sshd: Sshd, libvirt: LibvirtConnection) {
    this.folder = folder;
    this.libvirtd = libvirtd;
    this.sshd = sshd;
    this.libvirt = libvirt;
  }

  /** `searchPath` as {@link startSshd} takes it. */
  static async start(options: Pick<SshdOptions, "searchPath"> = {}): Promise<AdapterHost> {
    const folder = workFolder();
    const [libvirtd, sshd] = await Promise.all([startLibvirtd(folder), startSshd(folder, options)]);
    return new AdapterHost(folder, libvirtd, sshd, await openLibvirt(connect(libvirtd.socket), { callTimeoutMs }));
  }

  get uri(): string {
    return `qemu+unix:///system?socket=${this.libvirtd.socket}`;
  }

  settings(owner: string, sshd = this.sshd): KvmHostSettings {
    return {
      endpoint: { host: "127.0.0.1", port: sshd.port, user: "root" },
      hostKeys: [sshd.fingerprint],
      uri: this.uri,
      privateKey: async () => sshd.userKey,
      allowedCidrs: ["127.0.0.1"],
      owner,
    };
  }

  /** A folder that is the pool `default`, without any VM. */
  async makeSubject(options: SubjectOptions = {}): Promise<KvmSubject> {
    const number = this.#subjects++;
    const images = this.folder.file(`pool${number}`);
    mkdirSync(images);
    const xml = `<pool type='dir'><name>default</name><target><path>${images}</path></target></pool>`;
    const { pool } = await this.libvirt.call("poolDefineXml", { xml, ...none });
    await this.libvirt.call("poolCreate", { pool, ...none });
    return new KvmSubject(this, `hyp_${number}`, images, pool, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.libvirt.close();
    await this.sshd.stop();
    await this.libvirtd.stop();
    this.folder.remove();
  }
}

export interface SubjectOptions {
  /** Of the disks that {@link KvmSubject.makeVolume} makes. Default `qcow2`. */
  readonly format?: "raw" | "qcow2";
  /** Whether their VMs run. Default false. */
  readonly running?: boolean;
}

export class KvmSubject implements HypervisorSubject {
  readonly host: AdapterHost;
  readonly owner: string;
  readonly images: string;
  readonly hypervisor: KvmHypervisor;
  readonly #pool: Pool;
  readonly #options: SubjectOptions;
  readonly #hypervisors: KvmHypervisor[] = [];

  constructor(host: AdapterHost, owner: string, images: string, pool: Pool, options: SubjectOptions) {
    this.host = host;
    this.owner = owner;
    this.images = images;
    this.#pool = pool;
    this.#options = options;
    this.hypervisor = this.newHypervisor();
  }

  /** Another worker's adapter for the same registration. */
  newHypervisor(changes: Partial<KvmHostSettings> = {}): KvmHypervisor {
    const hypervisor = new KvmHypervisor({ ...this.host.settings(this.owner), ...changes });
    this.#hypervisors.push(hypervisor);
    return hypervisor;
  }

  image(name: string): string {
    return join(this.images, name);
  }

  /** Path of a file in the registration's own folder on the host. */
  own(...names: readonly string[]): string {
    return join(this.host.sshd.home, ownFolderPath(this.owner), ...names);
  }

  /** A VM of its own with this disk. */
  async makeVolume(name: string, sizeBytes: number): Promise<string> {
    const { format = "qcow2", running = false } = this.#options;
    const path = this.image(name);
    run("qemu-img", "create", "-q", "-f", format, path, `${sizeBytes}`);
    const domain = await this.define(`vm-${name}`, [{ target: "vda", path, format }]);
    if (running) await this.start(domain);
    return path;
  }

  /** Runs no system, only the firmware. */
  async define(name: string, disks: readonly DiskFile[], more = ""): Promise<Domain> {
    const devices = disks.map(
      ({ target, path, format }) =>
        `<disk type='file' device='disk'><driver name='qemu' type='${format}'/><source file='${escaped(path)}'/><target dev='${target}' bus='virtio'/></disk>`,
    );
    const xml = `<domain type='qemu'><name>${escaped(name)}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><cpu mode='custom'><model>qemu64</model></cpu>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>${devices.join("")}${more}
<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>`;
    return this.defineXml(xml);
  }

  async defineXml(xml: string): Promise<Domain> {
    return (await this.host.libvirt.call("domainDefineXml", { xml, ...none })).domain;
  }

  async start(domain: Domain): Promise<void> {
    await this.host.libvirt.call("domainCreate", { domain, ...none });
  }

  /** Ends it as a cut of its power does. */
  async destroy(domain: Domain): Promise<void> {
    await this.host.libvirt.call("domainDestroy", { domain, ...none });
  }

  async stopUsing(externalId: string): Promise<void> {
    await this.destroy((await this.diskOf(externalId)).domain);
  }

  async definition(domain: Domain): Promise<DomainXml> {
    return new DomainXml((await this.host.libvirt.call("domainGetXml", { domain, ...none })).xml);
  }

  /** The VM that has the volume, and the disk as it is now. */
  async diskOf(externalId: string): Promise<{ domain: Domain; running: boolean; path: string; format: string }> {
    const { domains } = await this.host.libvirt.call("connectListAllDomains", all);
    for (const domain of domains) {
      for (const { file, format } of (await this.definition(domain)).disks) {
        if (file !== externalId && (file === undefined || parseOverlayPath(file)?.volume !== externalId)) continue;
        return { domain, running: domain.id >= 0, path: file, format: format ?? "raw" };
      }
    }
    throw new Error(`No VM has ${externalId}.`);
  }

  /** As the guest would: through QEMU where the VM runs. */
  async writeVolume(externalId: string, data: Uint8Array, offset: number): Promise<void> {
    if (data.length === 0) return;
    const source = this.host.folder.file("write.bytes");
    writeFileSync(source, data);
    await this.#io(externalId, `write -s ${source} ${offset} ${data.length}`);
  }

  async #io(externalId: string, command: string): Promise<void> {
    const { domain, running, path, format } = await this.diskOf(externalId);
    if (!running) return void run("qemu-io", "-f", format, "-c", command, path);
    // What qemu-io prints goes to the log of the VM; an answer is an error.
    for (const line of [command, "flush"]) {
      const monitor = `qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "${line}"`;
      const answer = run("virsh", "-q", "-c", this.host.uri, "qemu-monitor-command", domain.name, "--hmp", monitor);
      if (answer.trim() !== "") throw new Error(`${monitor}: ${answer}`);
    }
  }

  async readVolume(externalId: string): Promise<Buffer> {
    const found = await this.diskOf(externalId).catch(() => undefined);
    return this.readImage(found?.path ?? externalId, found?.format);
  }

  /** All bytes of an image through its chain, as QEMU itself reads them. Without a format it finds it out. */
  readImage(path: string, format?: string): Buffer {
    const target = this.host.folder.file("read.raw");
    run("qemu-img", "convert", "-U", ...(format ? ["-f", format] : []), "-O", "raw", path, target);
    const bytes = readFileSync(target);
    rmSync(target);
    return bytes;
  }

  async countSnapshots(): Promise<number> {
    return readdirSync(this.images).filter((name) => parseOverlayPath(this.image(name))).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { snapshotId, installPath } of this.#openExports()) {
      await this.hypervisor.closeExport({ kind: "kvm", snapshotId, installPath, sizeBytes: 0 });
    }
    for (const hypervisor of this.#hypervisors) await hypervisor.close();
    const { libvirt, sshd } = this.host;
    sshd.endLeftovers();
    for (const domain of (await libvirt.call("connectListAllDomains", all)).domains) {
      if (domain.id >= 0) await this.destroy(domain);
      await libvirt.call("domainUndefine", { domain, flags: undefine.snapshotsMetadata | undefine.managedSave });
    }
    await libvirt.call("poolDestroy", { pool: this.#pool });
    await libvirt.call("poolUndefine", { pool: this.#pool });
    rmSync(this.images, { recursive: true });
    rmSync(this.own(), { recursive: true, force: true });
  }

  #openExports(): { snapshotId: string; installPath: string }[] {
    const folder = this.own("exports");
    if (!existsSync(folder)) return [];
    return readdirSync(folder)
      .map((name) => join(folder, name, "record.json"))
      .filter((path) => existsSync(path))
      .map((path) => JSON.parse(readFileSync(path, "utf8")));
  }
}

/** For XML in single quotes. */
function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll("'", "&apos;");
}
