import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { App, Stack } from "aws-cdk-lib";
import { fingerprint } from "../../lambdas/protocols/ssh/host-key.ts";
import { bundle } from "../../lib/bundles.ts";
import { compile } from "../../lib/compiler.ts";
import { functionFiles } from "../../lib/functions.ts";
import { hostKey, startSshPeer, userKey } from "../support/ssh-peer.ts";

const projectRoot = fileURLToPath(new URL("../..", import.meta.url));

const source = `
  import { createRequire } from "node:module";
  export const handler = async () => ({
    required: require("node:path").sep,
    called: (await import("koffi")).default.types !== undefined,
  });
  export const unused = createRequire;
`;

test("a bundle can require, and brings native file calls and threads where they are wanted", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "snapferry-bundle-"));
  t.after(() => rm(directory, { recursive: true }));
  await writeFile(join(directory, "entry.ts"), source);
  const outdir = join(directory, "out");
  const file = relative(projectRoot, join(directory, "entry.ts"));
  const thread = relative(projectRoot, join(directory, "thread.ts"));
  await writeFile(join(directory, "thread.ts"), 'export const works: string = "in a thread";');
  bundle(new Stack(new App({ outdir })), {
    plain: { file, threads: [thread] },
    native: { file, nativeFileCalls: true },
  });

  const { handler } = await import(pathToFileURL(join(outdir, "bundles/native/index.mjs")).href);
  assert.deepEqual(await handler(), { required: "/", called: true });
  const plain = await import(pathToFileURL(join(outdir, "bundles/plain/index.mjs")).href);
  await assert.rejects(plain.handler(), { code: "ERR_MODULE_NOT_FOUND" });
  assert.deepEqual(
    { ...(await import(pathToFileURL(join(outdir, "bundles/plain/thread.mjs")).href)) },
    { works: "in a thread" },
  );
  assert.ok(bytesIn(join(outdir, "bundles/native/node_modules")) < 4_000_000);
});

for (const file of ["domain", "protocols/libvirt", "protocols/nbd", "protocols/ssh"].map(
  (folder) => `lambdas/${folder}/errors.ts`,
))
  test(`errors of ${file} have the names of their classes in a bundle`, async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "snapferry-bundle-"));
    t.after(() => rm(directory, { recursive: true }));
    compile(directory, { file });
    const bundled: object = await import(pathToFileURL(join(directory, "index.mjs")).href);
    const classes = Object.entries(bundled).filter(([, one]) => one.prototype instanceof Error);
    const thrown = classes.filter(([, one]) => Object.getPrototypeOf(one) !== Error);
    assert.ok(thrown.length > 5);
    for (const [name, errorClass] of thrown) assert.equal(errorClass.name, name);
  });

const connecting = `
  import { SshHostKeyMismatch } from "${projectRoot}lambdas/protocols/ssh/errors.ts";
  export const handler = async (settings) => {
    const { SshConnection } = await import("${projectRoot}lambdas/protocols/ssh/connection.ts");
    try {
      await (await SshConnection.open(settings)).close();
      return "open";
    } catch (error) {
      return error instanceof SshHostKeyMismatch ? error.name : String(error);
    }
  };
`;

test("a bundled function opens SSH connections, without native parts, and has read nothing of that before", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "snapferry-bundle-"));
  t.after(() => rm(directory, { recursive: true }));
  await writeFile(join(directory, "entry.ts"), connecting);
  const outdir = join(directory, "out");
  bundle(new Stack(new App({ outdir })), { ssh: { file: relative(projectRoot, join(directory, "entry.ts")) } });
  const folder = join(outdir, "bundles/ssh");
  assert.ok(statSync(join(folder, "index.mjs")).size < 10_000);
  assert.ok(readdirSync(folder).some((name) => /^connection-[A-Z0-9]+\.mjs$/.test(name)));

  const peer = await startSshPeer();
  t.after(() => peer.close());
  const { handler } = await import(pathToFileURL(join(folder, "index.mjs")).href);
  const key = Buffer.from(hostKey.public.split(" ")[1] ?? "", "base64");
  const privateKey = userKey.private;
  const settings = { host: "127.0.0.1", port: peer.port, user: "backup", privateKey, allowedCidrs: ["127.0.0.1"] };
  assert.equal(await handler({ ...settings, hostKeys: [fingerprint(key)] }), "open");
  assert.equal(await handler({ ...settings, hostKeys: [] }), "SshHostKeyMismatch");
});

/** Parts of Node that a bundle has loaded once it is ready for its first call. */
const loadedParts = `
  await import(process.argv[1]);
  console.log(JSON.stringify(process.moduleLoadList));
`;

test("a bundled function starts without Node's own client of the web", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "snapferry-bundle-"));
  t.after(() => rm(directory, { recursive: true }));
  compile(directory, { file: functionFiles.tasks });
  const index = pathToFileURL(join(directory, "index.mjs")).href;
  const { stdout } = spawnSync(process.execPath, ["--input-type=module", "--eval", loadedParts, index], {
    encoding: "utf8",
    env: { AWS_REGION: "us-east-1" },
  });
  const parts = JSON.parse(stdout) as string[];
  assert.ok(parts.includes("NativeModule _http_client"), "it calls AWS");
  assert.deepEqual(
    parts.filter((part) => part.includes("undici")),
    [],
  );
});

function bytesIn(directory: string): number {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0);
}
