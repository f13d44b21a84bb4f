/** Whether a host can be used as it is registered, in sentences. */
import { HypervisorMisconfigured, HypervisorUnavailable } from "../../domain/errors.ts";
import type { HypervisorReport } from "../port.ts";
import { guestAgentOf, readVms, type Vm } from "./discovery.ts";
import type { KvmHost } from "./host.ts";
import { isTimeOut } from "./host-errors.ts";
import { assertUser, closedPaths } from "./rights.ts";

/** libvirt 6.0 tells the chains of running VMs as they are; qemu-nbd tells since 5.2 which layer data lies in. As `major.minor`. */
const oldest = { libvirt: "6.0", QEMU: "5.2" } as const;

/** Programs that there is no doing without, and the Debian packages that have them. */
const neededPrograms: Readonly<Record<string, string>> = {
  "qemu-img": "qemu-utils",
  "qemu-nbd": "qemu-utils",
  flock: "util-linux",
  setsid: "util-linux",
  timeout: "coreutils",
};

/** Throws HypervisorMisconfigured, HypervisorUnavailable, SecretUnusable or EndpointForbidden. */
export async function checkHost(host: KvmHost): Promise<HypervisorReport> {
  // First of all SSH: whatever is wrong with it is told as it is.
  const programs = await findPrograms(host, [...Object.keys(neededPrograms), "virsh"]);
  for (const [program, debianPackage] of Object.entries(neededPrograms)) {
    if (!programs.has(program)) {
      throw new HypervisorMisconfigured(`The host has no program ${program} (Debian's package ${debianPackage}).`);
    }
  }
  await assertSocket(host);
  const versions = {
    libvirt: versionText((await host.call("connectGetLibVersion", undefined)).version),
    QEMU: versionText((await host.call("connectGetVersion", undefined)).version),
    "qemu-nbd": await versionOf(host, "qemu-nbd"),
  };
  assertNotOlder("libvirt", versions.libvirt, oldest.libvirt);
  assertNotOlder("QEMU", versions.QEMU, oldest.QEMU);
  assertNotOlder("qemu-nbd", versions["qemu-nbd"], oldest.QEMU);
  await host.ownFolder();
  const vms = await readVms(host);
  return { versions, warnings: [...(await closed(host, vms)), ...missingVirsh(programs), ...agentless(vms)] };
}

function missingVirsh(programs: ReadonlySet<string>): string[] {
  if (programs.has("virsh")) return [];
  return [
    "The host has no virsh: if a worker dies while it holds a VM's file systems, they stay held until the next reconciliation.",
  ];
}

async function closed(host: KvmHost, vms: readonly Vm[]): Promise<string[]> {
  const disks = vms.flatMap(({ definition }) => definition.disks.filter(({ device }) => device === "disk"));
  try {
    const paths = await closedPaths(
      host,
      disks.flatMap(({ file }) => file ?? []),
    );
    if (paths.length === 0) return [];
    return [`The user may not read and write ${paths.join(", ")}: there are no snapshots of what lies there.`];
  } catch (error) {
    if (!isTimeOut(error)) throw error;
    return ["Storage of the host does not answer: whether the disks' files may be read and written cannot be told."];
  }
}

function agentless(vms: readonly Vm[]): string[] {
  const without = vms.filter((vm) => vm.isActive && guestAgentOf(vm) !== "connected");
  if (without.length === 0) return [];
  const names = without.map(({ domain }) => domain.name).join(", ");
  return [`No guest agent answers in ${names}: their file systems cannot be held for a snapshot.`];
}

async function findPrograms(host: KvmHost, names: readonly string[]): Promise<Set<string>> {
  const text = 'for name; do command -v "$name" >/dev/null && echo "$name"; done; true';
  return new Set((await host.script("find-programs", text, names)).split("\n"));
}

/** Names what stands between the user and libvirt's socket: SSH's own answer is the same for all of it. */
async function assertSocket(host: KvmHost): Promise<void> {
  await assertUser(host);
  try {
    await host.call("connectGetHostname", undefined);
  } catch (error) {
    if (!(error instanceof HypervisorUnavailable)) throw error;
    throw new HypervisorMisconfigured(
      `libvirt's socket is there, but cannot be reached through SSH: sshd_config needs AllowStreamLocalForwarding and AllowTcpForwarding yes or local, and the key in authorized_keys must not be held from forwarding. ${error.message}`,
      { cause: error },
    );
  }
}

async function versionOf(host: KvmHost, program: string): Promise<string> {
  return /(\d+\.\d+(?:\.\d+)?)/.exec(await host.run([program, "--version"]))?.[1] ?? "0.0";
}

/** libvirt's number of a version: major × 1,000,000 + minor × 1,000 + release. */
function versionText(version: number): string {
  return `${Math.floor(version / 1_000_000)}.${Math.floor(version / 1000) % 1000}.${version % 1000}`;
}

/** Throws HypervisorMisconfigured. */
export function assertNotOlder(name: string, version: string, least: string): void {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  const [leastMajor = 0, leastMinor = 0] = least.split(".").map(Number);
  if (major > leastMajor || (major === leastMajor && minor >= leastMinor)) return;
  throw new HypervisorMisconfigured(
    `${name} on the host is ${version}, which is too old: it must be ${least} or later.`,
  );
}
