/**
 * A small real guest: Debian's cloud kernel and an initramfs of busybox and the guest agent, which mounts its disks and writes to them
 * all the time. The packages are downloaded and unpacked below `.snapferry/`, not installed.
 */
import { execFileSync } from "node:child_process";
import { hash } from "node:crypto";
import { chmodSync, copyFileSync, existsSync, globSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { LocalCloudError } from "../cloud/errors.ts";
import { withFileLock } from "../file-lock.mjs";
import { run } from "./processes.ts";

export interface GuestFiles {
  readonly kernel: string;
  readonly initrd: string;
}

/** In the order in which they need each other. */
const modules = [
  "virtio_ring",
  "virtio",
  "virtio_pci_legacy_dev",
  "virtio_pci_modern_dev",
  "virtio_pci",
  "virtio_blk",
  "virtio_console",
];

/**
 * Writes a number to each disk all the time. The console is told when that begins, and of the time between two writes, in hundredths of a second:
 * when it is the longest so far and, with when that was since the start, whenever it is longer than a tenth of a second. While the file `/slow` is there, the agent
 * takes half a minute to hold the file systems. It powers off and reboots when the agent asks it to.
 */
const init = `#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in ${modules.join(" ")}; do insmod /lib/$m.ko 2>/dev/null; done
i=0; while [ ! -b /dev/vda ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done
mount -t ext4 /dev/vda /mnt; mkdir -p /more; mount -t ext4 /dev/vdb /more 2>/dev/null
mkdir -p /run /var/run /etc; cat /proc/mounts > /etc/mtab
printf '#!/bin/sh\\n[ "$1" = freeze ] && [ -e /slow ] && sleep 30; exit 0\\n' > /hook; chmod +x /hook
printf '#!/bin/sh\\ncase "$*" in *-r*) exec reboot -f;; esac; exec poweroff -f\\n' > /sbin/shutdown; chmod +x /sbin/shutdown
for d in /sys/class/virtio-ports/*; do [ "$(cat $d/name)" = org.qemu.guest_agent.0 ] && port=/dev/\${d##*/}; done
qemu-ga -m virtio-serial -p $port -t /run -F/hook &
n=0; last=0; max=0; echo begins
while :; do
  n=$((n+1)); echo $n > /mnt/counter; echo $n > /more/counter; sync
  read up rest < /proc/uptime; now=\${up%.*}\${up#*.}; gap=$((now-last))
  if [ $last -gt 0 ] && [ $gap -gt $max ]; then max=$gap; echo "longest gap $max"; fi
  if [ $last -gt 0 ] && [ $gap -gt 10 ]; then echo "gap $gap at $now"; fi
  last=$now; sleep 0.05
done
`;

/** Takes half a minute the first time, of which most is the download of 70 MB. Several processes at once wait for one that makes them. */
export async function guestFiles(): Promise<GuestFiles> {
  // Another guest than the one that was made last time has another name.
  const name = `kvm-guest-${hash("sha256", init).slice(0, 12)}`;
  const folder = join(import.meta.dirname, "../../.snapferry", name);
  const files = { kernel: join(folder, "vmlinuz"), initrd: join(folder, "initrd.gz") };
  await withFileLock(`${folder}.lock`, async () => {
    if (!existsSync(folder)) make(folder);
  });
  return files;
}

function make(folder: string): void {
  const draft = `${folder}.tmp`;
  rmSync(draft, { recursive: true, force: true });
  mkdirSync(join(draft, "packages"), { recursive: true });
  const unpacked = unpack(join(draft, "packages"));
  copyFileSync(only(`${unpacked}/boot/vmlinuz-*`), join(draft, "vmlinuz"));
  makeInitrd(unpacked, join(draft, "root"), join(draft, "initrd.gz"));
  for (const name of ["packages", "root"]) rmSync(join(draft, name), { recursive: true });
  renameSync(draft, folder);
}

/** Downloads kernel and agent, and unpacks both into one folder. */
function unpack(folder: string): string {
  const dependencies = run("apt-cache", "depends", "linux-image-cloud-amd64");
  const kernel = /Depends: (linux-image-\S+)/.exec(dependencies)?.[1];
  if (!kernel) throw new LocalCloudError("apt knows no linux-image-cloud-amd64: run apt-get update.");
  execFileSync("apt-get", ["download", "--quiet", kernel, "qemu-guest-agent"], {
    cwd: folder,
    stdio: ["ignore", 2, 2],
  });
  for (const file of globSync(join(folder, "*.deb"))) run("dpkg-deb", "--extract", file, join(folder, "unpacked"));
  return join(folder, "unpacked");
}

function only(pattern: string): string {
  const [path] = globSync(pattern);
  if (!path) throw new LocalCloudError(`Nothing is at ${pattern}.`);
  return path;
}

function makeInitrd(unpacked: string, root: string, target: string): void {
  for (const name of ["bin", "sbin", "lib", "proc", "sys", "dev", "mnt", "run"])
    mkdirSync(join(root, name), { recursive: true });
  const busybox = ["/bin/busybox", "/usr/bin/busybox"].find((path) => existsSync(path));
  copyFileSync(busybox ?? "/bin/busybox", join(root, "bin/busybox"));
  run("sh", "-c", `cd ${join(root, "bin")} && for a in $(./busybox --list); do [ -e $a ] || ln -s busybox $a; done`);
  const agent = only(`${unpacked}/usr/sbin/qemu-ga`);
  copyFileSync(agent, join(root, "sbin/qemu-ga"));
  for (const library of run("ldd", agent).match(/\/\S+/g) ?? []) {
    mkdirSync(join(root, dirname(library)), { recursive: true });
    copyFileSync(library, join(root, library));
  }
  for (const name of modules) {
    for (const path of globSync(`${unpacked}/lib/modules/**/${name}.ko`))
      copyFileSync(path, join(root, "lib", basename(path)));
  }
  writeFileSync(join(root, "init"), init);
  chmodSync(join(root, "init"), 0o755);
  run("sh", "-c", `cd ${root} && find . | cpio --quiet -o -H newc | gzip -1 > ${target}`);
}

/** An ext4 file system of 64 MiB in a qcow2 image. */
export function makeDisk(path: string): void {
  const raw = `${path}.raw`;
  run("qemu-img", "create", "-q", "-f", "raw", raw, "64M");
  run("/sbin/mkfs.ext4", "-q", "-F", raw);
  run("qemu-img", "convert", "-O", "qcow2", raw, path);
  rmSync(raw);
}

export interface Definition {
  readonly name: string;
  readonly files: GuestFiles;
  /** qcow2 image of the disk `vda`. */
  readonly disk: string;
  /** Of `vdb`. */
  readonly secondDisk?: string;
  /** For the agent's channel. */
  readonly agentSocket: string;
  /** File that the guest's console goes to. */
  readonly console?: string;
}

/** Runs in software: guests may hang under a nested KVM. */
export function domainXml({ name, files, disk, secondDisk, agentSocket, console }: Definition): string {
  const disks = [disk, ...(secondDisk ? [secondDisk] : [])].map(
    (path, index) =>
      `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${path}'/><target dev='vd${"ab"[index]}' bus='virtio'/></disk>`,
  );
  const serial = console ? `<serial type='file'><source path='${console}'/></serial>` : "";
  return `<domain type='qemu'><name>${name}</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>${files.kernel}</kernel><initrd>${files.initrd}</initrd>
<cmdline>console=ttyS0 quiet panic=-1 tsc=unstable</cmdline></os>
<features><acpi/></features><cpu mode='custom'><model>qemu64</model></cpu>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
${disks.join("")}${serial}
<controller type='usb' model='none'/><memballoon model='none'/>
<channel type='unix'><source mode='bind' path='${agentSocket}'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
</devices></domain>`;
}
