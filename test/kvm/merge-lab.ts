/** A host with small VMs whose disks have snapshots, to try out what changes a host. */
import { mkdirSync } from "node:fs";
import { connect } from "node:net";
import { DomainXml } from "../../lambdas/hypervisors/kvm/domain-xml.ts";
import { KvmHost, type KvmHostSettings } from "../../lambdas/hypervisors/kvm/host.ts";
import { overlayPath } from "../../lambdas/hypervisors/kvm/overlay-path.ts";
import { type LibvirtConnection, openLibvirt } from "../../lambdas/protocols/libvirt/connection.ts";
import { LibvirtCallFailed } from "../../lambdas/protocols/libvirt/errors.ts";
import { domainXml as domainXmlFlags, snapshotCreate } from "../../lambdas/protocols/libvirt/flags.ts";
import type { Domain } from "../../lambdas/protocols/libvirt/procedures.ts";
import { type Libvirtd, startLibvirtd } from "../../local/kvm-host/libvirtd.ts";
import { type WorkFolder, workFolder } from "../../local/kvm-host/processes.ts";
import { type Sshd, startSshd } from "../../local/kvm-host/sshd.ts";

const none = { flags: 0 };
/** Of what tests do themselves: an emulated VM starts in seconds, on a busy machine in a minute. */
const callTimeoutMs = 180_000;

export class Lab implements AsyncDisposable {
  readonly folder: WorkFolder;
  readonly libvirt: LibvirtConnection;
  readonly #libvirtd: Libvirtd;
  readonly #sshd: Sshd;
  readonly #hosts: KvmHost[] = [];
  readonly host: KvmHost;

  private constructor(folder: WorkFolder, libvirtd: Libvirtd, sshd: Sshd, libvirt: LibvirtConnection) {
    this.folder = folder;
    this.#libvirtd = libvirtd;
    this.#sshd = sshd;
    this.libvirt = libvirt;
    this.host = this.newHost();
  }

  static async start(): Promise<Lab> {
    const folder = workFolder();
    mkdirSync(folder.file("images"));
    const [libvirtd, sshd] = await Promise.all([startLibvirtd(folder), startSshd(folder)]);
    return new Lab(folder, libvirtd, sshd, await openLibvirt(connect(libvirtd.socket), { callTimeoutMs }));
  }

  get settings(): Omit<KvmHostSettings, "privateKey"> {
    return {
      endpoint: { host: "127.0.0.1", port: this.#sshd.port, user: "root" },
      hostKeys: [this.#sshd.fingerprint],
      uri: `qemu+unix:///system?socket=${this.#libvirtd.socket}`,
      allowedCidrs: ["127.0.0.1"],
      owner: "hyp_test",
    };
  }

  get privateKey(): string {
    return this.#sshd.userKey;
  }

  /** Another worker's way to the same host. */
  newHost(): KvmHost {
    const host = new KvmHost({ ...this.settings, privateKey: async () => this.privateKey });
    this.#hosts.push(host);
    return host;
  }

  image(name: string): string {
    return this.folder.file(`images/${name}`);
  }

  /** Defines a VM that boots from this disk, `vda`. */
  async define(name: string, disk: string, format = "qcow2"): Promise<Domain> {
    const xml = `<domain type='qemu'><name>${name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><cpu mode='custom'><model>qemu64</model></cpu>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='${format}'/><source file='${disk}'/><target dev='vda' bus='virtio'/></disk>
<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>`;
    return (await this.libvirt.call("domainDefineXml", { xml, ...none })).domain;
  }

  async start(domain: Domain): Promise<void> {
    await this.libvirt.call("domainCreate", { domain, ...none });
  }

  /** Ends it as a cut of its power does. */
  async stop(domain: Domain): Promise<void> {
    await this.libvirt.call("domainDestroy", { domain, ...none }).catch((error: unknown) => {
      if (!(error instanceof LibvirtCallFailed && error.code === "OPERATION_INVALID")) throw error;
    });
  }

  /** Lets the definition of a stopped VM name another file. */
  async setDisk(domain: Domain, file: string, format: string): Promise<void> {
    const { xml } = await this.libvirt.call("domainGetXml", { domain, flags: domainXmlFlags.inactive });
    const definition = new DomainXml(xml);
    definition.setDiskFile("vda", file, format);
    await this.libvirt.call("domainDefineXml", { xml: definition.toString(), ...none });
  }

  /** Puts an overlay on `vda`, as a snapshot does; returns its path. */
  async snapshot(domain: Domain, volume: string, snapshotId: string): Promise<string> {
    const path = overlayPath({ volume, snapshotId });
    const xml = `<domainsnapshot><disks><disk name='vda' snapshot='external'><source file='${path}'/></disk></disks></domainsnapshot>`;
    const flags = snapshotCreate.diskOnly | snapshotCreate.atomic | snapshotCreate.noMetadata;
    await this.libvirt.call("domainSnapshotCreateXml", { domain, xml, flags });
    return path;
  }

  /** The files of `vda`, the topmost first, as libvirt shows them. */
  async chain(domain: Domain, of: "running" | "defined"): Promise<string[]> {
    const flags = of === "running" ? 0 : domainXmlFlags.inactive;
    const { xml } = await this.libvirt.call("domainGetXml", { domain, flags });
    const { file, backing } = new DomainXml(xml).disk("vda")!;
    return [file!, ...backing];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const host of this.#hosts) await host.close();
    await this.libvirt.close();
    await this.#sshd.stop();
    await this.#libvirtd.stop();
    this.folder.remove();
  }
}
