/** Debian's packages that a KVM host on this machine needs, and its tests. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";

/** Programs, and the Debian packages that have them. */
const programs: Readonly<Record<string, string>> = {
  "/usr/bin/qemu-system-x86_64": "qemu-system-x86",
  "/usr/bin/qemu-nbd": "qemu-utils",
  "/usr/bin/qemu-img": "qemu-utils",
  "/usr/sbin/libvirtd": "libvirt-daemon-system",
  "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so": "libvirt-daemon-driver-qemu",
  "/usr/bin/virsh": "libvirt-clients",
  "/usr/sbin/nbdkit": "nbdkit",
  "/usr/sbin/sshd": "openssh-server",
  "/usr/bin/ssh-keygen": "openssh-client",
  "/bin/busybox": "busybox-static",
  "/sbin/mkfs.ext4": "e2fsprogs",
  "/usr/bin/cpio": "cpio",
};

/** Programs that Debian has in one of several places. */
const elsewhere: Readonly<Record<string, string>> = {
  "/usr/sbin/nbdkit": "/usr/bin/nbdkit",
  "/bin/busybox": "/usr/bin/busybox",
};

export function missingPackages(): string[] {
  const missing = Object.entries(programs).filter(
    ([path]) => !existsSync(path) && !existsSync(elsewhere[path] ?? path),
  );
  return [...new Set(missing.map(([, name]) => name))].sort();
}

export function installCommand(packages: readonly string[]): string[] {
  return ["apt-get", "install", "--yes", "--no-install-recommends", ...packages];
}

/** Says on stderr what it does; false when it fails. Takes one to two minutes. */
export function install(packages: readonly string[]): boolean {
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  for (const [command, ...args] of [["apt-get", "update"], installCommand(packages)]) {
    if (spawnSync(command!, args, { env, stdio: ["ignore", 2, 2] }).status !== 0) return false;
  }
  return true;
}
