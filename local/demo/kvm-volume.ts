/** The disk of a running VM on a KVM host of its own, for the main job. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { CreateSecretCommand, SecretsManagerClient } from "@aws-sdk/client-secrets-manager";
import { parseOverlayPath } from "../../lambdas/hypervisors/kvm/overlay-path.ts";
import { LocalCloudError } from "../cloud/errors.ts";
import { domainXml, type GuestFiles, guestFiles, makeDisk } from "../kvm-host/guest.ts";
import { startLibvirtd } from "../kvm-host/libvirtd.ts";
import { installCommand, missingPackages } from "../kvm-host/packages.ts";
import { run, workFolder } from "../kvm-host/processes.ts";
import { startSshd } from "../kvm-host/sshd.ts";
import { digestOf } from "./digest.ts";
import type { DemoVolume } from "./volumes.ts";

const vmName = "guest";
/** Emulated, on a busy machine. */
const bootSeconds = 180;
/** Characters of the guest's console that an error shows. */
const consoleTail = 2_000;

/**
 * Starts libvirt, an SSH server and a VM whose system writes to its disk all the time: half a minute, and a download of 70 MB the first time.
 * Throws LocalCloudError where something is missing for that.
 */
export async function startKvmVolume(cloud: {
  readonly endpoint: string;
  readonly tenant: string;
}): Promise<DemoVolume & AsyncDisposable> {
  requireMachine();
  const started = new AsyncDisposableStack();
  try {
    const volume = await bootedVolume(started, await guestFiles(), cloud);
    return { ...volume, [Symbol.asyncDispose]: () => started.disposeAsync() };
  } catch (error) {
    await started.disposeAsync();
    throw error;
  }
}

/** What it starts is ended with `started`. */
async function bootedVolume(
  started: AsyncDisposableStack,
  files: GuestFiles,
  cloud: { readonly endpoint: string; readonly tenant: string },
): Promise<DemoVolume> {
  const folder = workFolder();
  started.defer(folder.remove);
  const libvirtd = await startLibvirtd(folder);
  started.defer(() => libvirtd.stop());
  const sshd = await startSshd(folder);
  started.defer(() => sshd.stop());
  const uri = `qemu+unix:///system?socket=${libvirtd.socket}`;
  const [disk, console] = [folder.file("disk.qcow2"), folder.file("console")];
  makeDisk(disk);
  const definition = folder.file("guest.xml");
  writeFileSync(definition, domainXml({ name: vmName, files, disk, agentSocket: folder.file("agent.sock"), console }));
  run("virsh", "-q", "-c", uri, "create", definition);
  await firstWrites(console);
  return {
    name: `${vmName}/vda`,
    async register(client) {
      const secretId = `snapferry/${cloud.tenant}/kvm-${sshd.port}`;
      const credentials = { accessKeyId: "test", secretAccessKey: "test" };
      const secrets = new SecretsManagerClient({ endpoint: cloud.endpoint, region: "us-east-1", credentials });
      await secrets.send(new CreateSecretCommand({ Name: secretId, SecretString: sshd.userKey }));
      const hostKey = readFileSync(join(sshd.home, "host.pub"), "utf8").trim();
      const endpoint = `ssh://root@127.0.0.1:${sshd.port}`;
      return (await client.hypervisors.register({ kind: "kvm", endpoint, hostKey, secretId, uri })).id;
    },
    async size() {
      const image = imageInfo(disk);
      return { bytes: image["virtual-size"], allocatedBytes: image["actual-size"] };
    },
    async digestOfFrozen(snapshotId) {
      const overlay = readdirSync(folder.path).find(
        (name) => parseOverlayPath(folder.file(name))?.snapshotId === snapshotId,
      );
      if (!overlay) throw new LocalCloudError(`${snapshotId} is not on the host any more.`);
      const image = imageInfo(folder.file(overlay));
      const raw = folder.file(`${snapshotId}.raw`);
      run(
        "qemu-img",
        "convert",
        "-U",
        "-f",
        image["backing-filename-format"] ?? "qcow2",
        "-O",
        "raw",
        image["full-backing-filename"] ?? "",
        raw,
      );
      const digest = await digestOf(raw, () => {});
      rmSync(raw);
      return digest;
    },
  };
}

/** Waits until the guest's system is up and writes. */
async function firstWrites(console: string): Promise<void> {
  for (const deadline = Date.now() + bootSeconds * 1000; Date.now() < deadline; await pause(200))
    if (existsSync(console) && readFileSync(console, "utf8").includes("longest gap")) return;
  const said = existsSync(console) ? readFileSync(console, "utf8").slice(-consoleTail) : "";
  throw new LocalCloudError(`The VM wrote nothing within ${bootSeconds} s. Its console says:\n${said}`);
}

interface ImageInfo {
  readonly "virtual-size": number;
  readonly "actual-size": number;
  readonly "full-backing-filename"?: string;
  readonly "backing-filename-format"?: string;
}

/** Of an image that a VM may have open. */
function imageInfo(path: string): ImageInfo {
  return JSON.parse(run("qemu-img", "info", "-U", "--output=json", path));
}

function requireMachine(): void {
  const missing = missingPackages();
  if (missing.length > 0)
    throw new LocalCloudError(
      `A KVM host needs Debian's ${missing.join(", ")}; as root: apt-get update && ${installCommand(missing).join(" ")}`,
    );
  if (process.getuid?.() !== 0)
    throw new LocalCloudError("A private libvirt has to be started as root: sudo npm start -- --kvm");
}
