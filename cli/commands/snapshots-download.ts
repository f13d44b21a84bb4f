/** `snapferry snapshots download`: the service says where the backup lies, and the caller's own credentials read it there. */
import type { Command } from "commander";
import { type CredentialFlags, withCredentialFlags } from "../bucket/flags.ts";
import { type Context, command, type JsonOption } from "../context.ts";
import { CliError, exitCodes } from "../exit-codes.ts";
import { type TargetFlags, targetOf, withTargetFlags } from "../image-target.ts";

type DownloadOptions = JsonOption & TargetFlags & Pick<CredentialFlags, "profile" | "kmsKey" | "kmsProfile">;

export function downloadCommand(context: Context): Command {
  const downloading = command("download", "Write a backup to a file here, with your own AWS credentials", [
    "snapshots download snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY --raw web-root.img",
    "snapshots download snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY --qcow2 web-root.qcow2 --profile backups",
  ]).argument("<snapshot>", "id");
  return withCredentialFlags(withTargetFlags(downloading)).action(async (id: string, options: DownloadOptions) => {
    const target = targetOf(options);
    const client = await context.client();
    const { storeId: _storeId, snapshotId, ...place } = await client.snapshots.location(id);
    const { restoreFromBucket } = await import("../bucket/restore.ts");
    try {
      await restoreFromBucket(snapshotId, target, { ...options, ...place }, context.terminal);
    } catch (error) {
      if (!(error instanceof CliError) || error.exitCode !== exitCodes.damaged) throw error;
      const { state } = await client.snapshots.get(id);
      if (state === "BackedUp") throw error;
      throw new CliError(exitCodes.failed, `${id} was deleted while it was being read: it is ${state}.`);
    }
  });
}
