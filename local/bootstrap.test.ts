import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { run } from "./cloud/process.ts";

const SCRIPT =
  "console.log(JSON.stringify({ version: process.version, args: process.argv.slice(2), path: process.env.PATH }));";

describe("bootstrap.mjs", () => {
  let checkout: string;

  beforeEach(() => {
    checkout = mkdtempSync(join(tmpdir(), "checkout-"));
    for (const file of ["bootstrap.mjs", "file-lock.mjs", "node-modules.mjs"]) {
      cpSync(join(import.meta.dirname, file), join(checkout, "local", file));
    }
    write("package-lock.json", JSON.stringify({ packages: { "": {}, "node_modules/node": { version: "1.0.0" } } }));
    write("script.ts", SCRIPT);
    // Stands for npm: installs a Node after a moment, and counts how often it is asked.
    write(
      "fake/npm",
      `#!/bin/sh\necho "$@" >> ${checkout}/npm-calls\nsleep 0.5\nmkdir -p node_modules/node/bin node_modules/.bin\nln -s ${process.execPath} node_modules/node/bin/node\n`,
    );
    chmodSync(join(checkout, "fake/npm"), 0o755);
  });
  afterEach(() => rmSync(checkout, { recursive: true, force: true }));

  test("installs node modules first, then runs the script with the checkout's commands first on PATH", async () => {
    const { code, stdout, stderr } = await bootstrap(["script.ts", "a", "--json"]);
    assert.equal(code, 0, stderr);
    const { args, path } = JSON.parse(stdout);
    assert.deepEqual(args, ["a", "--json"]);
    assert.ok(path.startsWith(`${checkout}/node_modules/.bin:`));
    assert.match(stderr, /✔ node modules/);
    assert.match(npmCalls()[0] ?? "", /^ci --include=dev /);
  });

  test("does not install a second time", async () => {
    await bootstrap(["script.ts"]);
    const { stderr } = await bootstrap(["script.ts"]);
    assert.equal(npmCalls().length, 1);
    assert.equal(stderr, "");
  });

  test("installs anew when the lock file has changed", async () => {
    await bootstrap(["script.ts"]);
    rmSync(join(checkout, "node_modules/node"), { recursive: true });
    write("package-lock.json", JSON.stringify({ packages: { "": {}, "node_modules/node": { version: "2.0.0" } } }));
    await bootstrap(["script.ts"]);
    assert.equal(npmCalls().length, 2);
  });

  test("takes what somebody has installed by hand, if it is what the lock file names", async () => {
    installByHand("1.0.0");
    assert.equal((await bootstrap(["script.ts"])).code, 0);
    assert.deepEqual(npmCalls(), []);
  });

  test("installs over what is of another version", async () => {
    installByHand("0.9.0");
    rmSync(join(checkout, "node_modules/node/bin/node"));
    await bootstrap(["script.ts"]);
    assert.equal(npmCalls().length, 1);
  });

  test("installs once when two need it at the same time", async () => {
    const both = await Promise.all([bootstrap(["script.ts"]), bootstrap(["script.ts"])]);
    assert.deepEqual(
      both.map(({ code }) => code),
      [0, 0],
    );
    assert.equal(npmCalls().length, 1);
    assert.ok(both.some(({ stderr }) => /Waiting for process \d+/.test(stderr)));
  });

  test("goes on after an install that was killed in the middle", async () => {
    write(".snapferry/node-modules.lock", JSON.stringify({ pid: process.pid, startTime: "1" }));
    assert.equal((await bootstrap(["script.ts"])).code, 0);
  });

  test("says what npm said when the install fails", async () => {
    write("fake/npm", "#!/bin/sh\necho 'npm error EINTEGRITY' >&2\nexit 1\n");
    const { code, stderr } = await bootstrap(["script.ts"]);
    assert.equal(code, 1);
    assert.match(stderr, /EINTEGRITY[\s\S]*run: npm ci/);
    assert.equal(existsSync(join(checkout, "node_modules/.snapferry-lock-hash")), false);
  });

  test("keeps from npm what an outer npm command was told", async () => {
    write(
      "fake/npm",
      `#!/bin/sh\nenv > ${checkout}/seen\nmkdir -p node_modules/node/bin node_modules/.bin\nln -s ${process.execPath} node_modules/node/bin/node\n`,
    );
    await bootstrap(["script.ts"], {
      npm_config_ignore_scripts: "true",
      npm_config_omit: "dev",
      npm_config_cache: "/tmp/cache",
    });
    const seen = readFileSync(join(checkout, "seen"), "utf8");
    assert.doesNotMatch(seen, /ignore_scripts|config_omit/);
    assert.match(seen, /npm_config_cache=\/tmp\/cache/);
  });

  test("hands on the exit code of the script", async () => {
    write("script.ts", "process.exitCode = 7;");
    assert.equal((await bootstrap(["script.ts"])).code, 7);
  });

  test("hands on signals, and ends as the script ended", async () => {
    write(
      "script.ts",
      'process.on("SIGTERM", () => { console.log("got it"); process.exit(5); });\nsetInterval(() => {}, 1000);\nconsole.log("up");',
    );
    installByHand("1.0.0");
    const child = spawn(process.execPath, [join(checkout, "local/bootstrap.mjs"), "script.ts"], {
      cwd: checkout,
      stdio: ["ignore", "pipe", "inherit"],
    });
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      if (text === "") child.kill("SIGTERM");
      text += chunk;
    });
    const code = await new Promise((done) => child.on("close", done));
    assert.deepEqual([code, text], [5, "up\ngot it\n"]);
  });

  test("passes flags to Node", async () => {
    installByHand("1.0.0");
    const { stdout } = await bootstrap(["--print", "1 + 1"]);
    assert.equal(stdout.trim(), "2");
  });

  function bootstrap(args: string[], environment: NodeJS.ProcessEnv = {}) {
    const env = { PATH: `${checkout}/fake:/usr/bin:/bin`, ...environment };
    return run(process.execPath, [join(checkout, "local/bootstrap.mjs"), ...args], {
      cwd: checkout,
      env,
      timeoutMs: 60_000,
    });
  }

  function installByHand(version: string): void {
    mkdirSync(join(checkout, "node_modules/node/bin"), { recursive: true });
    symlinkSync(process.execPath, join(checkout, "node_modules/node/bin/node"));
    write("node_modules/.package-lock.json", JSON.stringify({ packages: { "node_modules/node": { version } } }));
  }

  function npmCalls(): string[] {
    const file = join(checkout, "npm-calls");
    return existsSync(file) ? readFileSync(file, "utf8").trim().split("\n") : [];
  }

  function write(path: string, text: string): void {
    mkdirSync(dirname(join(checkout, path)), { recursive: true });
    writeFileSync(join(checkout, path), text);
  }
});
