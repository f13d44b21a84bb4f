/**
 * `snapferry store`: backups without the service, from a bucket alone. What reads buckets is loaded when it is needed: the AWS SDK would
 * make every other command wait for it.
 */
import { type Command, InvalidArgumentError } from "commander";
import { withBucketFlags } from "../bucket/flags.ts";
import type { InspectOptions } from "../bucket/inspect.ts";
import type { RestoreOptions } from "../bucket/restore.ts";
import type { VerifyOptions } from "../bucket/verify.ts";
import { type Context, group } from "../context.ts";
import { type TargetFlags, targetOf, withTargetFlags } from "../image-target.ts";
import { importCommand } from "./store-import.ts";

const example = "snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY";

export function storeCommand(context: Context): Command {
  return group("store", "Backups from a bucket alone, without the service", [
    "store inspect --bucket backups --region eu-central-1",
    `store restore ${example} --bucket backups --raw web-root.img`,
    "store verify --all --full --bucket backups --endpoint https://minio.example.com:9000",
    "store import off-site",
  ])
    .addCommand(inspect(context))
    .addCommand(verify(context))
    .addCommand(restore(context))
    .addCommand(importCommand(context));
}

const names =
  "Credentials are those of the AWS SDK: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, SSO, instance roles.";

function bucketCommand(name: string, summary: string, examples: readonly string[]): Command {
  const described = group(name, summary, examples).addHelpText("after", `\n${names}`);
  const located = withBucketFlags(described.option("--json", "print what was found as JSON"));
  return located.option(
    "--domain <domain>",
    "look only in this domain: the part of the keys after domains/",
    plainName,
  );
}

function inspect({ terminal }: Context): Command {
  return bucketCommand("inspect", "List what a bucket holds, or look at one snapshot", [
    "store inspect --bucket backups --region eu-central-1",
    "store inspect --bucket backups --prefix prod --sizes",
    `store inspect ${example} --bucket backups --endpoint http://127.0.0.1:9000`,
  ])
    .argument("[snapshot]", "id", plainName)
    .option("--sizes", "also what each takes in the store now, and which share; reads a listing of everything")
    .action(async (snapshotId: string | undefined, options: InspectOptions) => {
      const { inspectBucket } = await import("../bucket/inspect.ts");
      await inspectBucket(snapshotId, options, terminal);
    });
}

function verify({ terminal }: Context): Command {
  return bucketCommand("verify", "Check that snapshots in a bucket can be read", [
    "store verify --all --bucket backups",
    `store verify ${example} --full --bucket backups --region eu-central-1`,
  ])
    .argument("[snapshot...]", "ids", (id: string, others: readonly string[] = []) => [...others, plainName(id)])
    .option("--all", "every snapshot in the bucket")
    .option("--full", "read every chunk; without it packs are looked up only")
    .action(async (snapshotIds: readonly string[], options: VerifyOptions) => {
      const { verifyBucket } = await import("../bucket/verify.ts");
      await verifyBucket(snapshotIds, options, terminal);
    });
}

function restore({ terminal }: Context): Command {
  const restoring = bucketCommand("restore", "Write a snapshot to a file", [
    `store restore ${example} --bucket backups --raw web-root.img`,
    `store restore ${example} --bucket backups --profile disaster --qcow2 web-root.qcow2 --salvage`,
  ]).argument("<snapshot>", "id", plainName);
  return withTargetFlags(restoring).action(async (snapshotId: string, options: RestoreOptions & TargetFlags) => {
    const target = targetOf(options);
    const { restoreFromBucket } = await import("../bucket/restore.ts");
    await restoreFromBucket(snapshotId, target, options, terminal);
  });
}

/** What keys are made of. */
function plainName(text: string): string {
  if (/^[A-Za-z0-9_-]{1,128}$/.test(text)) return text;
  throw new InvalidArgumentError("It is 1 to 128 letters, digits, _ and -.");
}
