/** The command line on a bucket alone, on versitygw, while backups in it are damaged: `npm run test:s3`. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, afterEach, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { domainKeys } from "../../lambdas/repository/layout.ts";
import type { S3ObjectStore } from "../../lambdas/repository/s3-object-store.ts";
import { startVersitygw } from "../../local/versitygw.ts";
import { type CliOptions, type CliRun, runCommand } from "../support/cli.ts";
import { backup, SparseVolume } from "../support/repository.ts";
import { connectS3Service } from "../support/s3-service.ts";

const gateway = await startVersitygw();
const service = await connectS3Service(gateway);
after(async () => {
  await service.close();
  await gateway.stop();
});

const MiB = 2 ** 20;
const domain = "0123456789abcdef0123456789abcdef";
const keys = domainKeys(domain);

describe("snapferry store", () => {
  let opened: Awaited<ReturnType<typeof service.openFaulty>>;
  let content: Buffer;
  let directory: string;
  let file: string;
  beforeEach(async () => {
    opened = await service.openFaulty();
    content = Buffer.concat([randomBytes(40 * MiB), Buffer.alloc(20 * MiB), randomBytes(700)]);
    await backup({ store: opened.direct, domain, snapshotId: "snap1", jobId: "job1" }, SparseVolume.of(content));
    directory = await mkdtemp(path.join(tmpdir(), "snapferry-store-"));
    file = path.join(directory, "image");
  });
  afterEach(() => rm(directory, { recursive: true }));

  const env = {
    AWS_ACCESS_KEY_ID: gateway.accessKeyId,
    AWS_SECRET_ACCESS_KEY: gateway.secretAccessKey,
  };

  /** Runs a command on the bucket, through the proxy. */
  function run(args: readonly string[], options: CliOptions = {}): Promise<CliRun> {
    const prefix = (opened.store as S3ObjectStore).fullKey("");
    const at = ["--bucket", service.bucket, "--prefix", prefix, "--endpoint", opened.proxy.endpoint];
    return runCommand(["store", ...args, ...at], { env, ...options });
  }

  async function somePack(): Promise<string> {
    const packs = await Array.fromAsync(opened.direct.list(keys.packs));
    return packs[1]?.key ?? "";
  }

  test("restores byte for byte, and leaves nothing beside the file", async () => {
    const { code, out, err } = await run(["restore", "snap1", "--raw", file, "--json"]);
    assert.equal(code, 0, err);
    assert.equal(JSON.parse(out).sizeBytes, content.length);
    assert.ok((await readFile(file)).equals(content));
    assert.deepEqual(await readdir(directory), ["image"]);
  });

  test("ends with codes that tell damage from salvage, and names each object with the bytes lost", async () => {
    const pack = await somePack();
    await opened.direct.deleteEveryVersion([pack]);
    const verified = await run(["verify", "snap1", "--json"]);
    assert.equal(verified.code, 5, verified.err);
    const [verdict] = JSON.parse(verified.out).snapshots;
    assert.equal(verdict.result, "damaged");
    assert.ok(verdict.lost.every(({ object }: { object: string }) => object === pack));
    const failed = await run(["restore", "snap1", "--raw", file]);
    assert.equal(failed.code, 5);
    assert.match(failed.err, new RegExp(`${pack}.*Bytes \\d+-\\d+.*--salvage`));
    assert.deepEqual(await readdir(directory), []);
    const salvaged = await run(["restore", "snap1", "--raw", file, "--salvage"]);
    assert.equal(salvaged.code, 6, salvaged.err);
    assert.match(salvaged.err, new RegExp(`${pack} is missing or damaged: bytes \\d+-\\d+`));
    const { lost } = JSON.parse(await readFile(`${file}.damage.json`, "utf8"));
    assert.deepEqual(lost, verdict.lost);
    const expected = Buffer.from(content);
    for (const { offset, length } of lost) expected.fill(0, offset, offset + length);
    assert.ok((await readFile(file)).equals(expected));
  });

  test("finds a flipped bit when it reads everything", async () => {
    const pack = await somePack();
    const bytes = Buffer.from((await opened.direct.get(pack)) ?? []);
    bytes[100_000]! ^= 1;
    await opened.direct.put(pack, bytes);
    assert.equal((await run(["verify", "--all"])).code, 0);
    const full = await run(["verify", "--all", "--full"]);
    assert.equal(full.code, 5);
    assert.match(full.out, new RegExp(`snap1 +damaged.*\\n +${pack} is missing or damaged: bytes \\d+-\\d+`));
  });

  test("lists what can be listed when a root is damaged", async () => {
    await backup({ store: opened.direct, domain, snapshotId: "snap2", jobId: "job2" }, SparseVolume.of(content), [
      "snap1",
    ]);
    await opened.direct.put(keys.root("snap1"), Buffer.from("nothing"));
    const { code, out, err } = await run(["inspect", "--json"]);
    assert.equal(code, 5, err);
    const [one, two] = JSON.parse(out).domains[0].snapshots;
    assert.match(one.damage, /roots\/snap1 is damaged/);
    assert.deepEqual([two.snapshotId, two.sizeBytes], ["snap2", content.length]);
  });

  test("says in a sentence what is wrong with bucket, credentials, snapshot or flags", async () => {
    const at = ["--endpoint", gateway.endpoint];
    for (const [args, options, code, message] of [
      [["inspect", "--bucket", "no-such-bucket", ...at], { env }, 4, /bucket does not exist.*--bucket/],
      [
        ["inspect", "--bucket", service.bucket, ...at],
        { env: { ...env, AWS_SECRET_ACCESS_KEY: "wrong" } },
        4,
        /secret key is wrong/,
      ],
      [["inspect", "--bucket", service.bucket, ...at], { env: {} }, 4, /no credentials.*--profile/],
      [["inspect", "--bucket", service.bucket, "--endpoint", "http://127.0.0.1:1"], { env }, 3, /--endpoint/],
      [["inspect", "--bucket", service.bucket, "--endpoint", "nowhere"], { env }, 2, /--endpoint: "nowhere"/],
      [["inspect", "--bucket", service.bucket], { env }, 2, /--region/],
      [["inspect", ...at], { env }, 2, /--bucket/],
      [["inspect", "a/b", "--bucket", service.bucket, ...at], { env }, 2, /letters, digits/],
      [["verify", "--bucket", service.bucket, ...at], { env }, 2, /--all/],
      [["restore", "snap1", "--bucket", service.bucket, ...at], { env }, 2, /--raw FILE or --qcow2 FILE/],
      [
        ["restore", "snap9", "--raw", file, "--bucket", service.bucket, ...at],
        { env },
        1,
        /no snapshot "snap9".*inspect/,
      ],
    ] as [string[], CliOptions, number, RegExp][]) {
      const run = await runCommand(["store", ...args], options);
      assert.equal(run.code, code, `${args.join(" ")}: ${run.err}`);
      assert.match(run.err, message);
      assert.ok(!/\n\s+at /.test(run.err), run.err);
    }
    assert.deepEqual(await readdir(directory), []);
  });

  test("tells how far it is when it takes long, and leaves nothing after Ctrl-C", async () => {
    opened.proxy.fault = ({ method, path: key }) =>
      method === "GET" && key.includes("/packs/") ? sleep(2_500) : "pass";
    let interrupted = false;
    const { code, err } = await run(["restore", "snap1", "--raw", file], {
      onErr: (_text, interrupt) => {
        if (!interrupted) interrupt();
        interrupted = true;
      },
    });
    assert.equal(code, 130, err);
    assert.match(err, /snap1 +\d+ % +.* of 40 MiB[\s\S]*Interrupted: nothing was kept/);
    assert.deepEqual(await readdir(directory), []);
  });
});
