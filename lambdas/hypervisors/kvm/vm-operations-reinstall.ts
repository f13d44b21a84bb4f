/** Gives a stopped VM a fresh root disk, copied from an image. The old one stays on the host as it is, with its snapshots. */
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { HypervisorUnavailable, OperationRefused } from "../../domain/errors.ts";
import { commandFiles, DetachedCommand } from "./detached-command.ts";
import type { Vm } from "./discovery.ts";
import type { KvmHost } from "./host.ts";
import { commandError } from "./host-errors.ts";
import { describeImage } from "./image-probe.ts";
import { hiddenPrefix } from "./overlay-path.ts";
import { replaceDisk } from "./vm-operations-disks.ts";

/** The API's functions live for 30 s, and look at the VM before and after. */
const copyWaitSeconds = 12;

/** Arguments: format and path of the image, path while it is copied, path of the whole copy. */
const copyScript = 'qemu-img convert -q -f "$0" -O qcow2 "$1" "$2" && sync "$2" && mv "$2" "$3"';

/**
 * Arguments: the copy, and the name that it gets; a name that is taken is not used again. It loses its own in the same moment: no second
 * call may give away what a VM writes to. Whoever owns the folder owns its images.
 */
const nameScript = `
chmod 0660 "$1"
chown --reference="$(dirname "$1")" "$1" 2>/dev/null || true
inode=$(stat -c %i "$1")
number=1
until
  name=$2-$number.qcow2
  mv -n -T "$1" "$name" 2>/dev/null
  [ "$(stat -c %i "$name" 2>/dev/null)" = "$inode" ]
do
  [ -e "$1" ] && [ -e "$name" ] || exit 1
  number=$((number + 1))
done
printf '%s' "$name"
`;

/** Who was told to ask again does so within minutes. */
const leftoverDays = 2;
/** Argument: a folder. Removes what is left of copies that nobody asked for again. */
const collectScript = `find -H "$1" -maxdepth 1 -type f -name '${hiddenPrefix}reinstall-*' -mtime +${leftoverDays} -delete`;

/**
 * A copy that takes long goes on when this gives up (HypervisorUnavailable), and the next call for the same VM and image goes on from there.
 *
 * @throws OperationRefused while the VM runs, and for an image that cannot be used
 */
export async function reinstall(host: KvmHost, { domain, definition, isActive }: Vm, imagePath: string): Promise<void> {
  if (isActive)
    throw new OperationRefused(`${definition.name} runs: its root disk is replaced only while it is stopped.`);
  const [root] = definition.disksToBoot;
  if (root?.file === undefined) throw new OperationRefused(`${definition.name} has no disk in a file to boot from.`);
  const folder = dirname(root.file);
  await host.script("find", collectScript, [folder]);
  const copy = await copyImage(host, folder, { uuid: domain.uuid, imagePath });
  const stem = join(folder, `${definition.name.replaceAll(/[^\w.-]/g, "_")}-reinstalled`);
  const file = await host.script("mv", nameScript, [copy, stem]);
  try {
    await replaceDisk(host, domain, root.target, { file, format: "qcow2" });
  } catch (error) {
    // After any other error the VM may have it all the same.
    if (error instanceof OperationRefused) await host.run(["mv", "-n", "-T", "--", file, copy]);
    throw error;
  }
}

async function copyImage(
  host: KvmHost,
  folder: string,
  { uuid, imagePath }: { uuid: string; imagePath: string },
): Promise<string> {
  const { format } = await describeImage(host, imagePath);
  // The image may be another one by the time that this is asked for again.
  const version = await host.run(["stat", "-L", "-c", "%i %s %.9Y", "--", imagePath]);
  const key = createHash("sha256").update([uuid, imagePath, version].join("\0")).digest("hex").slice(0, 16);
  const prefix = join(folder, `${hiddenPrefix}reinstall-${key}`);
  const copy = `${prefix}.qcow2`;
  const command = new DetachedCommand(host, prefix);
  const isThere = async () => (await host.exec(["test", "-e", copy])).code === 0;
  if (!(await isThere())) {
    await command.start(["sh", "-c", copyScript, format, imagePath, `${prefix}.part`, copy]);
    if (!(await command.ended(copyWaitSeconds))) {
      throw new HypervisorUnavailable(`${imagePath} is still being copied: ask for the same again.`);
    }
    if (!(await isThere())) {
      const stderr = await command.output();
      throw commandError("qemu-img convert", { code: 1, signal: undefined, stdout: "", stderr });
    }
  }
  await host.run(["rm", "-f", "--", ...commandFiles(prefix)]);
  return copy;
}
