/** What the KVM adapter finds on a host, and what it says of a host that cannot be used. */
import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import {
  EndpointForbidden,
  HypervisorMisconfigured,
  HypervisorUnavailable,
  OperationRefused,
  SecretUnusable,
} from "../../lambdas/domain/errors.ts";
import type { KvmHostSettings } from "../../lambdas/hypervisors/kvm/host.ts";
import { KvmHypervisor } from "../../lambdas/hypervisors/kvm/kvm-hypervisor.ts";
import type { VolumeDescription } from "../../lambdas/hypervisors/port.ts";
import { choosePort } from "../../local/cloud/ports.ts";
import { startLibvirtd } from "../../local/kvm-host/libvirtd.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { type Sshd, type SshdOptions, startSshd } from "../../local/kvm-host/sshd.ts";
import { AdapterHost, type KvmSubject } from "./adapter-host.ts";

const host = await AdapterHost.start();
after(() => host[Symbol.asyncDispose]());

let subject: KvmSubject;
beforeEach(async () => {
  subject = await host.makeSubject();
});
afterEach(() => subject[Symbol.asyncDispose]());

describe("a check of a host", () => {
  const check = (changes: Partial<KvmHostSettings>) => subject.newHypervisor(changes).check();

  async function checkWith(options: SshdOptions) {
    const sshd = await startSshd(host.folder, options);
    try {
      return await check(host.settings(subject.owner, sshd));
    } finally {
      await sshd.stop();
    }
  }

  test("tells the versions", async () => {
    const { versions, warnings } = await check({});
    assert.deepEqual(Object.keys(versions), ["libvirt", "QEMU", "qemu-nbd"]);
    for (const version of Object.values(versions)) assert.match(version, /^\d+\.\d+\.\d+$/);
    assert.deepEqual(warnings, []);
  });

  test("warns of VMs that run without an agent", async () => {
    const domain = await subject.define("web", []);
    await subject.start(domain);
    assert.match((await check({})).warnings.join(), /^No guest agent answers in web:/);
  });

  test("says that the host is out of reach", async () => {
    const port = await choosePort(undefined);
    const endpoint = { host: "127.0.0.1", port, user: "root" };
    await assert.rejects(check({ endpoint }), {
      name: "HypervisorUnavailable",
      message: /nothing listens on the port/,
    });
    await assert.rejects(check({ allowedCidrs: [] }), EndpointForbidden);
  });

  test("says that the host has another key, and that the user has", async (t) => {
    const other = await startSshd(host.folder);
    t.after(() => other.stop());
    await assert.rejects(check({ hostKeys: [other.fingerprint] }), (error) => {
      assert.ok(error instanceof HypervisorMisconfigured);
      assert.ok(error.message.includes(host.sshd.fingerprint) && error.message.includes(other.fingerprint));
      return true;
    });
    await assert.rejects(check({ privateKey: async () => other.userKey }), {
      name: "HypervisorMisconfigured",
      message: /does not take the key of the user root/,
    });
    await assert.rejects(check({ privateKey: async () => "no key" }), SecretUnusable);
  });

  test("says what the SSH server must allow", async () => {
    for (const setting of ["AllowStreamLocalForwarding no", "AllowTcpForwarding no", "DisableForwarding yes"]) {
      await assert.rejects(checkWith({ settings: [setting] }), {
        name: "HypervisorMisconfigured",
        message: /sshd_config needs AllowStreamLocalForwarding and AllowTcpForwarding/,
      });
    }
    await assert.rejects(checkWith({ keyOptions: "restrict" }), {
      name: "HypervisorMisconfigured",
      message: /authorized_keys/,
    });
    assert.ok((await checkWith({ keyOptions: "restrict,port-forwarding" })).versions);
  });

  test("says that libvirt is not there, or is not libvirt", async () => {
    const gone = "qemu+unix:///system?socket=/nowhere/libvirt-sock";
    await assert.rejects(check({ uri: gone }), {
      name: "HypervisorUnavailable",
      message: /has no socket \/nowhere\/libvirt-sock/,
    });
    for (const uri of [
      "xen:///system",
      "qemu:///session",
      "qemu+ssh://other/system",
      "qemu:///system?socket=rel",
      "libvirt",
    ]) {
      await assert.rejects(check({ uri }), HypervisorMisconfigured, uri);
    }
  });

  test("names the program that is missing, and warns of the one that is of use", async () => {
    const bin = host.folder.file("bin");
    mkdirSync(bin);
    const programs = ["sh", "env", "timeout", "mkdir", "qemu-img", "qemu-nbd", "flock", "setsid", "stat", "id", "rm"];
    for (const name of programs) symlinkSync(run("sh", "-c", `command -v ${name}`).trim(), `${bin}/${name}`);
    assert.match((await checkWith({ searchPath: bin })).warnings.join(), /^The host has no virsh:/);
    run("rm", `${bin}/qemu-nbd`);
    await assert.rejects(checkWith({ searchPath: bin }), {
      name: "HypervisorMisconfigured",
      message: "The host has no program qemu-nbd (Debian's package qemu-utils).",
    });
  });

  test("says which version is too old", async () => {
    const bin = host.folder.file("old-bin");
    mkdirSync(bin);
    writeFileSync(`${bin}/qemu-nbd`, "#!/bin/sh\necho qemu-nbd 4.2.1\n", { mode: 0o755 });
    await assert.rejects(checkWith({ searchPath: `${bin}:/usr/bin:/bin` }), {
      name: "HypervisorMisconfigured",
      message: "qemu-nbd on the host is 4.2.1, which is too old: it must be 5.2 or later.",
    });
  });
});

describe("volumes of a host", () => {
  const image = (name: string, ...options: readonly string[]) => {
    run("qemu-img", "create", "-q", ...options, subject.image(name), ...(options.includes("-b") ? [] : ["1M"]));
    return subject.image(name);
  };

  async function volumes(): Promise<VolumeDescription[]> {
    return Array.fromAsync(subject.hypervisor.listVolumes());
  }

  const reasons = (found: readonly VolumeDescription[]) => found.map(({ name, unsupported }) => [name, unsupported]);

  test("have names of their VM and disk, what they take, and are in use while it runs", async () => {
    const a = image("a.qcow2", "-f", "qcow2");
    const b = image("b.raw", "-f", "raw");
    const domain = await subject.define("web", [
      { target: "vda", path: a, format: "qcow2" },
      { target: "vdb", path: b, format: "raw" },
    ]);
    await subject.writeVolume(b, Buffer.alloc(65_536, 1), 0).catch(() => {});
    const found = await volumes();
    assert.deepEqual(
      found.map(({ externalId, name, sizeBytes, inUse, unsupported }) => ({
        externalId,
        name,
        sizeBytes,
        inUse,
        unsupported,
      })),
      [
        { externalId: a, name: "web/vda", sizeBytes: 1_048_576, inUse: false, unsupported: undefined },
        { externalId: b, name: "web/vdb", sizeBytes: 1_048_576, inUse: false, unsupported: undefined },
      ],
    );
    assert.ok(found.every(({ allocatedBytes }) => allocatedBytes! < 1_000_000));
    await subject.start(domain);
    assert.deepEqual(
      (await volumes()).map(({ inUse }) => inUse),
      [true, true],
    );
  });

  test("that cannot be backed up are listed with the reason", async () => {
    const vmdk = image("disk.vmdk", "-f", "vmdk");
    const shared = image("shared.raw", "-f", "raw");
    const both = image("both.qcow2", "-f", "qcow2");
    const iso = image("disc.iso", "-f", "raw");
    const long = image(`${"x".repeat(230)}.raw`, "-f", "raw");
    image("pooled.qcow2", "-f", "qcow2");
    run("virsh", "-q", "-c", host.uri, "pool-refresh", "default");
    const others = `<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='default' volume='pooled.qcow2'/><target dev='vdw' bus='virtio'/></disk>
<disk type='file' device='cdrom'><source file='${iso}'/><target dev='sda' bus='sata'/><readonly/></disk>
<disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>
<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/null'/><target dev='vdx' bus='virtio'/></disk>
<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='e'><host name='localhost' port='1'/></source><target dev='vdy' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='${shared}'/><target dev='vdz' bus='virtio'/><shareable/></disk>`;
    await subject.define(
      "web",
      [
        { target: "vda", path: vmdk, format: "vmdk" },
        { target: "vdb", path: subject.image("gone.qcow2"), format: "qcow2" },
        { target: "vdc", path: both, format: "qcow2" },
        { target: "vdd", path: long, format: "raw" },
      ],
      others,
    );
    const other = await subject.define("other", [{ target: "vda", path: both, format: "qcow2" }]);
    const found = new Map(reasons(await volumes()) as [string, string][]);
    assert.match(found.get("web/vda") ?? "", /its format is vmdk/);
    assert.match(found.get("web/vdb") ?? "", /there is no file/);
    assert.equal(found.get("other/vda"), "it is a disk of other and web");
    assert.match(found.get("web/vdd") ?? "", /too long/);
    assert.equal(found.get("web/sda"), "it is a cdrom");
    assert.equal(found.get("web/fda"), "it is a floppy");
    assert.match(found.get("web/vdw") ?? "", /by pool and volume/);
    assert.match(found.get("web/vdx") ?? "", /of the type block/);
    assert.match(found.get("web/vdy") ?? "", /of the type network/);
    assert.equal(found.get("web/vdz"), "several VMs may write to it");
    for (const externalId of [both, shared, long]) {
      const taking = subject.hypervisor.takeSnapshots([{ externalId, snapshotId: "snap_1" }], { quiesce: false });
      await assert.rejects(taking, OperationRefused);
    }
    assert.equal(await subject.countSnapshots(), 0);
    const vms = await Array.fromAsync(subject.hypervisor.listVms());
    assert.deepEqual(
      vms.map(({ name, externalId, state, guestAgent }) => [name, externalId === other.uuid, state, guestAgent]),
      [
        ["other", true, "stopped", "absent"],
        ["web", false, "stopped", "absent"],
      ],
    );
    assert.deepEqual(vms[1]!.disks.map(({ target }) => target).sort(), [
      "vda",
      "vdb",
      "vdc",
      "vdd",
      "vdw",
      "vdx",
      "vdy",
      "vdz",
    ]);
    for (const { volumeExternalId } of vms[1]!.disks) {
      assert.ok((await volumes()).some(({ externalId }) => externalId === volumeExternalId));
    }
  });

  test("that stand on one image of many are told apart, and keep their id with snapshots", async () => {
    const golden = image("golden.qcow2", "-f", "qcow2");
    for (const name of ["a", "b"]) {
      const path = image(`${name}.qcow2`, "-f", "qcow2", "-F", "qcow2", "-b", golden);
      await subject.define(name, [{ target: "vda", path, format: "qcow2" }]);
    }
    const expected = [
      ["a/vda", subject.image("a.qcow2")],
      ["b/vda", subject.image("b.qcow2")],
    ];
    const ids = async () => (await volumes()).map(({ name, externalId }) => [name, externalId]);
    assert.deepEqual(await ids(), expected);
    await subject.hypervisor.takeSnapshots([{ externalId: subject.image("a.qcow2"), snapshotId: "snap_1" }], {
      quiesce: false,
    });
    assert.deepEqual(await ids(), expected);
  });

  test("keep their id when somebody else puts a file on top", async () => {
    const path = await subject.makeVolume("disk.qcow2", 1_048_576);
    await subject.hypervisor.takeSnapshots([{ externalId: path, snapshotId: "snap_1" }], { quiesce: false });
    run("virsh", "-q", "-c", host.uri, "snapshot-create-as", "vm-disk.qcow2", "theirs", "--disk-only", "--no-metadata");
    assert.deepEqual(
      (await volumes()).map(({ externalId }) => externalId),
      [path],
    );
    const [taken] = await subject.hypervisor.takeSnapshots([{ externalId: path, snapshotId: "snap_2" }], {
      quiesce: false,
    });
    assert.equal(taken!.installPath, `${path}.snap_2.qcow2`);
  });

  test("keep their id while their file cannot be read", async () => {
    const path = await subject.makeVolume("disk.qcow2", 1_048_576);
    const [taken] = await subject.hypervisor.takeSnapshots([{ externalId: path, snapshotId: "snap_1" }], {
      quiesce: false,
    });
    for (const file of [taken!.installPath, path]) {
      run("mv", file, `${file}.away`);
      const [volume] = await volumes();
      assert.deepEqual([volume!.externalId, volume!.name], [path, "vm-disk.qcow2/vda"]);
      assert.match(volume!.unsupported ?? "", /no file|No such file/);
      run("mv", `${file}.away`, file);
    }
    assert.deepEqual(reasons(await volumes()), [["vm-disk.qcow2/vda", undefined]]);
  });

  test("on storage that does not answer are listed with the reason, and nobody else's wait for them", async (t) => {
    const bin = host.folder.file("hanging-bin");
    const looks = host.folder.file("looks");
    mkdirSync(bin);
    const hanging = `#!/bin/sh\ncase "$*" in */gone*) echo >>${looks}; exec sleep 600;; esac\nexec /usr/bin/qemu-img "$@"\n`;
    writeFileSync(`${bin}/qemu-img`, hanging, { mode: 0o755 });
    const sshd = await startSshd(host.folder, { searchPath: `${bin}:/usr/bin:/bin` });
    t.after(() => sshd.stop());
    const hypervisor = subject.newHypervisor(host.settings(subject.owner, sshd));
    const [gone, there] = [
      await subject.makeVolume("gone.qcow2", 65_536),
      await subject.makeVolume("there.qcow2", 65_536),
    ];
    const take = (externalId: string) =>
      hypervisor.takeSnapshots([{ externalId, snapshotId: "snap_1" }], { quiesce: false });
    const { domain } = await subject.diskOf(there);
    assert.deepEqual((await hypervisor.describeVm(domain.uuid))?.disks, [{ target: "vda", volumeExternalId: there }]);
    assert.equal((await hypervisor.describeVolume(there)).unsupported, undefined);
    await take(there);
    assert.ok(!existsSync(looks));
    // Another one may be what the disk stands on that cannot be looked at.
    const others = [gone, subject.image("other.qcow2")];
    const [found] = await Promise.all([
      Array.fromAsync(hypervisor.listVolumes()),
      ...others.map((one) => assert.rejects(take(one), HypervisorUnavailable)),
    ]);
    const reasonOf = new Map(found.map(({ externalId, unsupported }) => [externalId, unsupported]));
    assert.match(reasonOf.get(gone) ?? "", /took too long/);
    assert.deepEqual([reasonOf.has(there), reasonOf.get(there)], [true, undefined]);
  });

  test("of which a file does not say the format of the one below are not touched", async () => {
    const golden = image("golden.qcow2", "-f", "qcow2");
    const path = image("disk.qcow2", "-f", "qcow2", "-F", "qcow2", "-b", golden);
    forgetBackingFormat(path);
    await subject.define("web", [{ target: "vda", path, format: "qcow2" }]);
    assert.match(reasons(await volumes())[0]![1] ?? "", /does not say of which format the file below it is/);
  });

  test("whose guest has written the beginning of another format are read as what they are", async () => {
    const path = image("disk.raw", "-f", "raw");
    const trap = image("trap.qcow2", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd");
    run("dd", `if=${trap}`, `of=${path}`, "conv=notrunc", "status=none");
    await subject.define("web", [{ target: "vda", path, format: "raw" }]);
    const [volume] = await volumes();
    assert.deepEqual([volume!.externalId, volume!.sizeBytes], [path, 1_048_576]);
    const [taken] = await subject.hypervisor.takeSnapshots([{ externalId: path, snapshotId: "snap_1" }], {
      quiesce: false,
    });
    assert.equal(taken!.sizeBytes, 1_048_576);
    const descriptor = await subject.hypervisor.openExport(taken!);
    const bytes = Buffer.alloc(4);
    const reader = await subject.hypervisor.openReader(descriptor);
    await reader.read(bytes, 0);
    await reader[Symbol.asyncDispose]();
    assert.equal(bytes.toString("latin1"), "QFI\xfb");
  });

  test("that no VM has are listed from the pools, without discs, hidden files and overlays", async () => {
    image("loose.qcow2", "-f", "qcow2");
    image("disc.iso", "-f", "raw");
    image(".snapferry-draft", "-f", "qcow2");
    const path = await subject.makeVolume("disk.qcow2", 1_048_576);
    await subject.hypervisor.takeSnapshots([{ externalId: path, snapshotId: "snap_1" }], { quiesce: false });
    assert.deepEqual(reasons(await volumes()), [
      ["vm-disk.qcow2/vda", undefined],
      ["loose.qcow2", "no VM has it as a disk"],
    ]);
    run("virsh", "-q", "-c", host.uri, "undefine", "vm-disk.qcow2");
    assert.deepEqual(
      (await volumes()).map(({ externalId }) => externalId),
      [path, subject.image("loose.qcow2")],
    );
    assert.equal((await subject.hypervisor.describeVolume(path)).unsupported, "no VM has it as a disk");
  });
});

describe("a user who is not root", () => {
  const user = "backup";
  let sshd: Sshd;
  let hypervisor: KvmHypervisor;

  before(async () => {
    sshd = await startSshd(host.folder, { user });
  });
  after(() => sshd.stop());
  afterEach(() => run("chown", "root", host.libvirtd.socket));
  beforeEach(() => {
    const settings = host.settings(subject.owner, sshd);
    hypervisor = subject.newHypervisor({ ...settings, endpoint: { ...settings.endpoint, user } });
  });

  const take = (externalId: string, snapshotId = "snap_1") =>
    hypervisor.takeSnapshots([{ externalId, snapshotId }], { quiesce: false });

  test("is refused: it sees what it may read, and leaves no overlay behind", async () => {
    await assert.rejects(hypervisor.check(), {
      name: "HypervisorMisconfigured",
      message: /^backup could neither read nor merge what libvirt makes for snapshots: .* log in as root/,
    });
    const [closed, open] = [await subject.makeVolume("closed", 65_536), await subject.makeVolume("open", 65_536)];
    chmodSync(closed, 0o600);
    chmodSync(open, 0o666);
    const found = await Array.fromAsync(hypervisor.listVolumes());
    const reasonOf = new Map(found.map(({ externalId, unsupported }) => [externalId, unsupported]));
    assert.match(reasonOf.get(closed) ?? "", /Permission denied/);
    assert.deepEqual([reasonOf.has(open), reasonOf.get(open)], [true, undefined]);
    await assert.rejects(take(closed), { name: "HypervisorMisconfigured", message: /Permission denied/ });
    await assert.rejects(take(open), { name: "HypervisorMisconfigured", message: /^backup could neither/ });
    await subject.start((await subject.diskOf(open)).domain);
    await assert.rejects(take(open), { name: "HypervisorMisconfigured", message: /^backup could neither/ });
    assert.equal(await subject.countSnapshots(), 0);
    assert.equal((await subject.diskOf(open)).path, open);
  });

  test("whose own libvirt it is needs to read and write the disks' files, and their folders", async () => {
    run("chown", user, host.libvirtd.socket);
    const [closed, open] = [await subject.makeVolume("closed", 65_536), await subject.makeVolume("open", 65_536)];
    await subject.writeVolume(open, Buffer.from("content"), 0);
    const { warnings } = await hypervisor.check();
    assert.deepEqual(warnings, [
      `The user may not read and write ${[closed, subject.images, open].join(", ")}: there are no snapshots of what lies there.`,
    ]);
    chmodSync(subject.images, 0o777);
    chmodSync(open, 0o666);
    await assert.rejects(take(closed), {
      name: "HypervisorMisconfigured",
      message: /may not read and write .*closed\.$/,
    });
    const [taken] = await take(open);
    const descriptor = await hypervisor.openExport(taken!);
    const reader = await hypervisor.openReader(descriptor);
    const bytes = Buffer.alloc(7);
    await reader.read(bytes, 0);
    await reader[Symbol.asyncDispose]();
    assert.equal(bytes.toString(), "content");
    await hypervisor.closeExport(descriptor);
    chmodSync(subject.images, 0o700);
    assert.deepEqual((await hypervisor.check()).warnings, [
      `The user may not read and write ${[closed, subject.images, taken!.installPath].join(", ")}: there are no snapshots of what lies there.`,
    ]);
  });
});

test("a host whose libvirt was started anew is found again by the same adapter", async (t) => {
  await using own = await AdapterHost.start();
  const hypervisor = new KvmHypervisor(own.settings("hyp_again"));
  t.after(() => hypervisor.close());
  const names = async () => (await Array.fromAsync(hypervisor.listVms())).map(({ name }) => name);
  assert.deepEqual(await names(), []);
  await own.libvirtd.stop("SIGKILL");
  await assert.rejects(names(), HypervisorUnavailable);
  const again = await startLibvirtd(own.folder);
  t.after(() => again.stop());
  assert.deepEqual(await names(), []);
  await hypervisor.close();
  assert.deepEqual(await names(), [], "a closed adapter opens its connections again");
});

test("one connection serves all that is asked, and one that was idle for long is made anew", async (t) => {
  const sshd = await startSshd(host.folder);
  t.after(() => sshd.stop());
  const hypervisor = subject.newHypervisor(host.settings(subject.owner, sshd));
  const logins = () => sshd.output().split("Accepted publickey").length - 1;
  const lists = [hypervisor.listVms(), hypervisor.listVolumes()].map((list) => Array.fromAsync<unknown>(list));
  await Promise.all([hypervisor.check(), ...lists]);
  await Array.fromAsync(hypervisor.listVms());
  assert.equal(logins(), 1);
  // What a Lambda sees that was stopped for a minute.
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() + 60_000 });
  await Array.fromAsync(hypervisor.listVms());
  assert.equal(logins(), 2);
});

/** The header extension that names the format gets a type that QEMU does not know. */
function forgetBackingFormat(path: string): void {
  const image = readFileSync(path);
  image.writeUInt32BE(0x12345678, image.indexOf(Buffer.from("e2792aca", "hex")));
  writeFileSync(path, image);
}
