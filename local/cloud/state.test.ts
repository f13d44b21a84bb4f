import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, beforeEach, describe, test } from "node:test";
import { runDirectory } from "./paths.ts";
import { findByEnvironment, goneWithin, identify, isAlive, type ProcessIdentity, terminate } from "./process.ts";
import { type CloudState, clearState, isRunning, readState, writeState } from "./state.ts";

const NAME = `state-test-${process.pid}`;

describe("the record of a cloud", () => {
  beforeEach(() => rmSync(runDirectory(NAME), { recursive: true, force: true }));
  after(() => rmSync(runDirectory(NAME), { recursive: true, force: true }));

  test("is read as it was written, by its owner only", () => {
    const state = record({ outputs: { ApiId: "abc" } });
    writeState(state);
    assert.deepEqual(readState(NAME), state);
    assert.equal(statSync(join(runDirectory(NAME), "state.json")).mode & 0o777, 0o600);
  });

  test("that is missing or damaged is none", () => {
    assert.equal(readState(NAME), undefined);
    mkdirSync(runDirectory(NAME), { recursive: true });
    writeFileSync(join(runDirectory(NAME), "state.json"), '{"name": "x');
    assert.equal(readState(NAME), undefined);
  });

  test("says that the cloud runs only while its own process lives", async () => {
    const child = sleeper();
    const running = record({ localstack: child });
    assert.equal(isRunning(running), true);
    assert.equal(isRunning(record({ localstack: { ...child, startTime: "1" } })), false);
    await terminate(child, 1_000);
    assert.equal(isRunning(running), false);
    assert.equal(isRunning(record({ mode: "external" })), true);
  });

  test("goes with all objects of the run, and leaves the log", () => {
    writeState(record());
    mkdirSync(join(runDirectory(NAME), "tmp", "s3"), { recursive: true });
    writeFileSync(join(runDirectory(NAME), "localstack.log"), "Ready.\n");
    clearState(NAME);
    assert.equal(readState(NAME), undefined);
    assert.equal(existsSync(join(runDirectory(NAME), "tmp")), false);
    assert.equal(existsSync(join(runDirectory(NAME), "localstack.log")), true);
  });

  test("cannot have a name that leads out of its folder", () => {
    for (const name of ["", "..", "a/b", "A", "-a", "a".repeat(41)]) assert.throws(() => runDirectory(name), TypeError);
  });
});

describe("the processes of a cloud", () => {
  test("are found by what stands in their environment, and only while they live", async () => {
    const marked = sleeper("exec sleep 600", { STATE_TEST: NAME });
    const other = sleeper("exec sleep 600", { STATE_TEST: `${NAME}0` });
    assert.deepEqual(findByEnvironment("STATE_TEST", NAME), [marked]);
    await Promise.all([marked, other].map((identity) => terminate(identity, 1_000)));
    assert.deepEqual(findByEnvironment("STATE_TEST", NAME), []);
  });
});

describe("ending a process", () => {
  test("is polite first", async () => {
    const child = sleeper("trap 'exit 0' TERM; while :; do sleep 0.05; done");
    await terminate(child, 5_000);
    assert.equal(isAlive(child), false);
  });

  test("takes SIGKILL when it must, and the process group with it", async () => {
    const leader = spawn("sh", ["-c", "trap '' TERM; sleep 600 & echo $!; while :; do sleep 0.05; done"], {
      detached: true,
      stdio: ["ignore", "pipe", "ignore"],
    });
    const [line] = (await leader.stdout.take(1).toArray()) as [Buffer];
    const helper = identify(Number(line.toString()));
    assert.ok(helper && leader.pid);
    await terminate(identify(leader.pid)!, 100);
    assert.equal(await goneWithin(helper, 2_000), true);
  });

  test("does nothing to another process that has the pid now", async () => {
    const child = sleeper();
    await terminate({ ...child, startTime: "1" }, 0);
    assert.equal(isAlive(child), true);
    await terminate(child, 1_000);
  });
});

function record(part: Partial<CloudState> = {}): CloudState {
  return { name: NAME, mode: "background", endpoint: "http://127.0.0.1:1", startedAt: "2026-01-01T00:00:00Z", ...part };
}

function sleeper(command = "exec sleep 600", marks: NodeJS.ProcessEnv = {}): ProcessIdentity {
  const env = { ...process.env, ...marks };
  const child = spawn("sh", ["-c", command], { detached: true, stdio: "ignore", env });
  const identity = identify(child.pid!);
  assert.ok(identity);
  return identity;
}
