import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { HypervisorFailed, OperationRefused } from "../../domain/errors.ts";
import { DomainXml } from "./domain-xml.ts";

/** As libvirt shows a VM that runs on the second overlay, with what this version knows nothing of. */
const running = `<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web &amp; mail</name>
  <uuid>aaaaaaaa-bbbb-cccc-dddd-000000000001</uuid>
  <os><type arch='x86_64'>hvm</type><loader>/fw.fd</loader><nvram>/nvram/web.fd</nvram></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/images/d.s2.qcow2' index='3'/>
      <backingStore type='file' index='2'>
        <format type='qcow2'/><source file='/images/d.s1.qcow2'/>
        <backingStore type='file' index='1'><format type='raw'/><source file='/images/d&lt;1&gt;'/><backingStore/></backingStore>
      </backingStore>
      <mirror type='file' job='active-commit' ready='yes'><format type='qcow2'/><source file='/images/d.s1.qcow2'/></mirror>
      <target dev='vda' bus='virtio'/>
      <boot order='2'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
    <disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='pool/x'/><target dev='vdb' bus='virtio'/><shareable/></disk>
    <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><target dev='vnet0'/></interface>
    <channel type='unix'><source mode='bind' path='/run/agent.sock'/><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
  </devices>
  <qemu:commandline><qemu:arg value='-no-hpet'/></qemu:commandline>
</domain>`;

describe("a VM's definition", () => {
  it("tells its disks, with the chain below each and the job that runs on it", () => {
    const domain = new DomainXml(running);
    assert.equal(domain.name, "web & mail");
    assert.equal(domain.uuid, "aaaaaaaa-bbbb-cccc-dddd-000000000001");
    assert.equal(domain.guestAgent, "connected");
    assert.deepEqual(domain.disk("vda"), {
      target: "vda",
      device: "disk",
      bus: "virtio",
      type: "file",
      format: "qcow2",
      file: "/images/d.s2.qcow2",
      backing: ["/images/d.s1.qcow2", "/images/d<1>"],
      mirror: { job: "active-commit", file: "/images/d.s1.qcow2", ready: true },
      bootOrder: 2,
      shareable: false,
    });
    const [, drive, remote] = domain.disks;
    assert.deepEqual([drive?.device, drive?.file], ["cdrom", undefined]);
    assert.deepEqual([remote?.type, remote?.file, remote?.shareable], ["network", undefined, true]);
  });

  it("tells which disk is the root disk: the first to boot from, be it one of the host's own, else the first", () => {
    const lun = "<disk type='block' device='lun'><target dev='sdb' bus='scsi'/><boot order='1'/></disk><interface";
    const targets = (xml: string) => new DomainXml(xml).disksToBoot.map(({ target }) => target);
    assert.deepEqual(targets(running), ["vda", "vdb"]);
    assert.deepEqual(targets(running.replace("<interface", lun)), ["sdb", "vda", "vdb"]);
    assert.deepEqual(targets(running.replace("<boot order='2'/>", "")), ["vda", "vdb"]);
  });

  it("gives a disk another file and keeps all else as it was sent", () => {
    const domain = new DomainXml(running);
    domain.setDiskFile("vda", "/images/a 'b' & \"c\"", "raw");
    const changed = new DomainXml(domain.toString());
    const { file, format, backing, mirror, bootOrder } = changed.disk("vda")!;
    assert.deepEqual([file, format, backing, mirror, bootOrder], ["/images/a 'b' & \"c\"", "raw", [], undefined, 2]);
    assert.match(changed.toString(), /<driver name="qemu" type="raw" cache="none"\/>/);
    assert.match(changed.toString(), /<qemu:commandline><qemu:arg value="-no-hpet"\/><\/qemu:commandline>/);
    assert.match(changed.diskXml("vda"), /^<disk .*<\/disk>$/s);
    assert.throws(() => domain.setDiskFile("vdz", "/x", "raw"), OperationRefused);
  });

  it("puts discs into a drive and takes them out", () => {
    const domain = new DomainXml(running);
    domain.setDiskFile("sda", "/iso/debian.iso", "raw");
    assert.equal(domain.disk("sda")?.file, "/iso/debian.iso");
    domain.eject("sda");
    assert.equal(domain.disk("sda")?.file, undefined);
    assert.equal(domain.disk("sda")?.device, "cdrom");
  });

  it("lets libvirt look anew at what lies below a disk", () => {
    const domain = new DomainXml(running);
    domain.forgetBacking("vda");
    assert.deepEqual([domain.disk("vda")?.file, domain.disk("vda")?.backing], ["/images/d.s2.qcow2", []]);
    assert.throws(() => domain.forgetBacking("vdz"), OperationRefused);
  });

  it("gets a drive of the kind that its machine has", () => {
    for (const [machine, target] of [
      ["pc", "hda"],
      ["pc-i440fx-7.2", "hda"],
      ["pc-q35-7.2", "sda"],
      ["virt", "sda"],
    ] as const) {
      const domain = new DomainXml(`<domain><name>d</name><os><type machine='${machine}'>hvm</type></os></domain>`);
      assert.equal(domain.addDrive("/iso/a.iso"), target);
      const { device, file, format } = domain.disk(target)!;
      assert.deepEqual([device, file, format], ["cdrom", "/iso/a.iso", "raw"]);
      assert.match(domain.diskXml(target), /<readonly\/>/);
    }
  });

  it("gets disks under the first free name, and loses them", () => {
    const domain = new DomainXml(running);
    assert.equal(domain.addDisk({ file: "/images/new.qcow2", format: "qcow2" }), "vdc");
    assert.equal(domain.addDisk({ file: "/images/other.raw", format: "raw", bus: "scsi" }), "sdb");
    assert.throws(() => domain.addDisk({ file: "/x", format: "raw", target: "vda" }), OperationRefused);
    assert.deepEqual(
      domain.disks.map(({ target }) => target),
      ["vda", "sda", "vdb", "vdc", "sdb"],
    );
    domain.removeDisk("vdc");
    assert.equal(domain.freeTarget("virtio"), "vdc");
    assert.throws(() => domain.removeDisk("vdc"), OperationRefused);
  });

  it("counts targets beyond z", () => {
    const domain = new DomainXml("<domain><name>many</name><devices/></domain>");
    const targets = Array.from({ length: 28 }, (_, n) => domain.addDisk({ file: `/${n}`, format: "raw" }));
    assert.deepEqual(targets.slice(25), ["vdz", "vdaa", "vdab"]);
  });

  it("becomes that of another VM, with nothing that only one may have", () => {
    const domain = new DomainXml(running);
    domain.becomeAnother("copy");
    const xml = domain.toString();
    assert.equal(new DomainXml(xml).name, "copy");
    for (const own of ["uuid", "52:54", "vnet0", "nvram", "agent.sock"]) assert.ok(!xml.includes(own), own);
    assert.match(xml, /<source bridge="br0"\/>/);
  });

  it("becomes that of another VM without the UUID in its SMBIOS, which libvirt takes for the VM's", () => {
    const system = `<system><entry name='manufacturer'>M</entry><entry name='uuid'>aaaa</entry></system>`;
    const domain = new DomainXml(`<domain><name>d</name><sysinfo type='smbios'>${system}</sysinfo></domain>`);
    domain.becomeAnother("copy");
    const left = `<system><entry name="manufacturer">M</entry></system>`;
    assert.match(domain.toString(), new RegExp(`<sysinfo type="smbios">${left}</sysinfo>`));
  });

  it("becomes that of another VM whose consoles nobody reaches from outside: their passwords are not known", () => {
    const console = `<graphics type='vnc' port='5901' autoport='no' listen='0.0.0.0'><listen type='address' address='0.0.0.0'/></graphics>`;
    const others = `<graphics type='spice' tlsPort='1'><listen type='network' network='a'/></graphics><graphics type='sdl' display=':0'/>`;
    const domain = new DomainXml(`<domain><name>d</name><devices>${console}${others}</devices></domain>`);
    domain.becomeAnother("copy");
    const [vnc, spice, window] = domain.toString().match(/<graphics [^>]*>/g) ?? [];
    assert.equal(vnc, '<graphics type="vnc" autoport="yes" listen="127.0.0.1"/>');
    assert.equal(spice, '<graphics type="spice" autoport="yes" listen="127.0.0.1"/>');
    assert.equal(window, '<graphics type="sdl" display=":0"/>');
  });

  it("becomes that of another VM that writes to no file, socket or port of the first", () => {
    const file = (name: string) =>
      `<${name} type='file'><source path='/log/${name}'/><log file='/log/all'/><target port='0'/></${name}>`;
    const devices = [
      ...["serial", "parallel", "console", "channel"].map(file),
      `<serial type='tcp'><source mode='bind' host='0.0.0.0' service='4555'/><protocol type='telnet'/></serial>`,
      `<serial type='pty'><target port='1'/></serial><channel type='spicevmc'><target name='s'/></channel>`,
    ];
    const domain = new DomainXml(`<domain><name>d</name><devices>${devices.join("")}</devices></domain>`);
    domain.becomeAnother("copy");
    const now = ["serial", "parallel", "console"].map((name) => `<${name} type="pty"><target port="0"/></${name}>`);
    const rest = `<serial type="pty"/><serial type="pty"><target port="1"/></serial><channel type="spicevmc"><target name="s"/></channel>`;
    const channel = `<channel type="unix"><target port="0"/></channel>`;
    assert.equal(
      domain.toString(),
      `<domain><name>copy</name><devices>${now.join("")}${channel}${rest}</devices></domain>`,
    );
  });

  it("that is none, or no XML, is an error of the hypervisor", () => {
    for (const xml of ["", "<domain>", "<volume/>", "no xml", "<domain/><domain/>", "<domain>&unknown;</domain>"])
      assert.throws(() => new DomainXml(xml), HypervisorFailed, xml);
  });

  it("expands no entity that it defines itself", () => {
    const xml = `<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><domain><name>&b;</name></domain>`;
    assert.throws(() => new DomainXml(xml), HypervisorFailed);
  });
});
