import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { LocalCloudError } from "./errors.ts";
import { findPython } from "./python.ts";

describe("the interpreter for the local cloud", () => {
  let root: string;

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), "python-"));
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  test("is the newest supported one on PATH", async () => {
    interpreter("bin/python3.12", { version: "3.12.4" });
    interpreter("bin/python3.13", { version: "3.13.1" });
    assert.equal((await find()).version, "3.13.1");
  });

  test("may be called just python3", async () => {
    interpreter("bin/python3", { version: "3.12.4" });
    assert.equal((await find()).path, join(root, "bin/python3"));
  });

  test("is not one that LocalStack fails on later", async () => {
    interpreter("bin/python3", { version: "3.11.9" });
    await assert.rejects(find(), {
      name: "LocalCloudError",
      message: /needs Python 3\.12 or 3\.13 \(found 3\.11\.9 at .*bin\/python3\)/,
    });
  });

  test("is looked for behind one that is too old", async () => {
    interpreter("bin/python3", { version: "3.11.9" });
    interpreter("other/python3", { version: "3.13.1" });
    assert.equal((await find({ PATH: `${root}/bin:${root}/other` })).path, join(root, "other/python3"));
  });

  test("is found under pyenv when its shims do not work, as under another HOME", async () => {
    broken("pyenv/shims/python3.13");
    interpreter("pyenv/versions/3.12.1/bin/python", { version: "3.12.1" });
    interpreter("pyenv/versions/3.11.7/bin/python", { version: "3.11.7" });
    assert.equal((await find({ PATH: `${root}/pyenv/shims` })).version, "3.12.1");
  });

  test("is found beside the pyenv command, through a link to it", async () => {
    broken("pyenv/bin/pyenv");
    mkdirSync(join(root, "bin"));
    symlinkSync(join(root, "pyenv/bin/pyenv"), join(root, "bin/pyenv"));
    interpreter("pyenv/versions/3.12.9/bin/python", { version: "3.12.9" });
    interpreter("pyenv/versions/3.12.10/bin/python", { version: "3.12.10" });
    assert.equal((await find()).version, "3.12.10");
  });

  test("is found in PYENV_ROOT", async () => {
    interpreter("elsewhere/versions/3.13.0/bin/python", { version: "3.13.0" });
    assert.equal((await find({ PYENV_ROOT: join(root, "elsewhere") })).version, "3.13.0");
  });

  test("is what SNAPFERRY_PYTHON names, and nothing else", async () => {
    interpreter("bin/python3.13", { version: "3.13.1" });
    interpreter("mine/python", { version: "3.12.2" });
    assert.equal((await find({ SNAPFERRY_PYTHON: join(root, "mine/python") })).version, "3.12.2");
    await assert.rejects(
      find({ SNAPFERRY_PYTHON: join(root, "absent") }),
      /SNAPFERRY_PYTHON .* does not run; name another/,
    );
  });

  test("has its whole standard library, or the advice is the package that completes it", async () => {
    interpreter("bin/python3.12", { version: "3.12.3", missing: ["ensurepip"] });
    await assert.rejects(find(), /3\.12\.3 without ensurepip; complete it: sudo apt-get install python3\.12-venv/);
  });

  test("is one that uv has, where uv is there", async () => {
    interpreter("uv-has/python3.13", { version: "3.13.7" });
    script("bin/uv", `[ "$2" = find ] && echo ${join(root, "uv-has/python3.13")}`);
    assert.equal((await find()).version, "3.13.7");
  });

  test("is installed by uv where uv is there and has none", async () => {
    interpreter("hidden/python3.13", { version: "3.13.7" });
    script(
      "bin/uv",
      `case "$2" in install) mv ${root}/hidden ${root}/shown;; find) [ -d ${root}/shown ] && echo ${root}/shown/python3.13;; esac`,
    );
    assert.equal((await find()).version, "3.13.7");
  });

  test("is asked for in one sentence with the command that this machine has", async () => {
    mkdirSync(join(root, "bin"));
    await assert.rejects(find(), /\(found none\); install it: export SNAPFERRY_PYTHON=/);
    broken("bin/apt-get");
    await assert.rejects(find(), /install it: sudo apt-get install python3\.13 python3\.13-venv$/);
    broken("bin/uv");
    await assert.rejects(find(), /install it: uv python install 3\.13$/);
    broken("bin/pyenv");
    await assert.rejects(
      find(),
      (error) =>
        error instanceof LocalCloudError &&
        /install it: pyenv install 3\.13$/.test(error.message) &&
        !error.message.includes("\n"),
    );
  });

  function find(environment: NodeJS.ProcessEnv = {}) {
    return findPython({ HOME: join(root, "home"), PATH: join(root, "bin"), ...environment });
  }

  function interpreter(path: string, answer: { version: string; missing?: string[] }): void {
    const text = JSON.stringify({ path: join(root, path), missing: [], ...answer });
    script(path, `printf '%s' '${text}'`);
  }

  function broken(path: string): void {
    script(path, "exit 127");
  }

  function script(path: string, body: string): void {
    const file = join(root, path);
    mkdirSync(dirname(file), { recursive: true });
    // PATH of the caller has nothing but fakes.
    writeFileSync(file, `#!/bin/sh\nPATH=/usr/bin:/bin\n${body}\n`);
    chmodSync(file, 0o755);
  }
});
