import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { describe, it } from "node:test";
import aslValidator from "asl-validator";
import jsonata from "jsonata";
import { isRetryableName } from "../lambdas/domain/errors.ts";
import { backupSnapshotStates } from "../lambdas/tasks/backup-snapshot.ts";
import { checkBackupsStates } from "../lambdas/tasks/check-backups.ts";
import { collectGarbageStates } from "../lambdas/tasks/collect-garbage.ts";
import { copyBackupStates, copyRestoreStates } from "../lambdas/tasks/copy-shards.ts";
import { createSnapshotStates } from "../lambdas/tasks/create-snapshot.ts";
import { deleteSnapshotStates } from "../lambdas/tasks/delete-snapshot.ts";
import { restoreVolumeStates } from "../lambdas/tasks/restore-volume.ts";

interface Retry {
  ErrorEquals: string[];
  IntervalSeconds?: number;
  BackoffRate?: number;
  MaxAttempts?: number;
  MaxDelaySeconds?: number;
}
interface State {
  Type: string;
  Resource?: string;
  Arguments?: { FunctionName: string; Payload: unknown };
  Next?: string;
  Default?: string;
  End?: boolean;
  Choices?: { Next: string; Condition: string }[];
  Catch?: { ErrorEquals: string[]; Next: string }[];
  Retry?: Retry[];
  ItemProcessor?: Machine;
}
interface Machine {
  StartAt: string;
  QueryLanguage?: string;
  States: Record<string, State>;
}

const folder = new URL("../statemachines/", import.meta.url);
const machines = readdirSync(folder)
  .filter((file) => file.endsWith(".asl.json"))
  .map((file) => ({
    name: file.replace(".asl.json", ""),
    definition: JSON.parse(
      readFileSync(new URL(file, folder), "utf8")
        .replaceAll("${ShardConcurrency}", "4")
        .replaceAll("${CheckSeconds}", "3600")
        .replace(/\$\{(\w+)\}/g, "arn:$1"),
    ) as Machine,
  }));

/** The functions behind each machine's Task states, by the function that the state names. */
const functions: Record<string, Record<string, object>> = {
  "create-snapshot": { TasksFunctionArn: createSnapshotStates },
  "backup-snapshot": { TasksFunctionArn: backupSnapshotStates, CopyFunctionArn: copyBackupStates },
  "restore-volume": { TasksFunctionArn: restoreVolumeStates, CopyFunctionArn: copyRestoreStates },
  "delete-snapshot": { CollectFunctionArn: deleteSnapshotStates },
  "collect-garbage": { CollectFunctionArn: collectGarbageStates },
  "check-backups": { TasksFunctionArn: checkBackupsStates },
};

function* statesOf(machine: Machine): Generator<[string, State, Machine]> {
  for (const [name, state] of Object.entries(machine.States)) {
    yield [name, state, machine];
    if (state.ItemProcessor) yield* statesOf(state.ItemProcessor);
  }
}

function nextStates(state: State): string[] {
  return [
    ...(state.Next ? [state.Next] : []),
    ...(state.Default ? [state.Default] : []),
    ...(state.Choices ?? []).map((choice) => choice.Next),
    ...(state.Catch ?? []).map((handler) => handler.Next),
  ];
}

function* expressionsIn(value: unknown): Generator<string> {
  if (typeof value === "string") {
    const match = /^\{%(.*)%\}$/s.exec(value);
    if (match?.[1]) yield match[1];
  } else if (value && typeof value === "object") {
    for (const part of Object.values(value)) yield* expressionsIn(part);
  }
}

/** The state that a choice with one condition leads to. */
async function taken(choice: State | undefined, bindings: object): Promise<string | undefined> {
  const [condition] = [...expressionsIn(choice?.Choices?.[0]?.Condition)];
  return (await jsonata(condition ?? "").evaluate({}, bindings)) ? choice?.Choices?.[0]?.Next : choice?.Default;
}

describe("the state machines", () => {
  for (const { name, definition } of machines) {
    it(`${name} is valid Amazon States Language`, () => {
      const { isValid, errorsText } = aslValidator(definition, {
        checkPaths: false,
        checkArn: false,
      });
      assert.ok(isValid, errorsText());
    });

    it(`${name}: every state can be reached, and every next state exists`, () => {
      const scopes = new Set([...statesOf(definition)].map(([, , scope]) => scope));
      for (const scope of scopes) {
        const reached = new Set<string>();
        const open = [scope.StartAt];
        for (let state = open.pop(); state !== undefined; state = open.pop()) {
          assert.ok(scope.States[state], `${name}: ${state} does not exist`);
          if (reached.has(state)) continue;
          reached.add(state);
          open.push(...nextStates(scope.States[state] as State));
        }
        assert.deepEqual([...reached].sort(), Object.keys(scope.States).sort());
      }
    });

    it(`${name}: every Task has a function of its name, and every function a Task`, () => {
      const called = new Set<string>();
      for (const [state, { Type, Arguments }] of statesOf(definition)) {
        if (Type !== "Task") continue;
        const target = Arguments?.FunctionName.replace("arn:", "") ?? "";
        assert.ok(
          functions[name]?.[target] && state in functions[name][target],
          `${name}.${state} on ${target} has no function`,
        );
        called.add(state);
      }
      const offered = Object.values(functions[name] ?? {}).flatMap((states) => Object.keys(states));
      assert.deepEqual([...called].sort(), offered.sort());
    });

    it(`${name}: what can fail is caught or must not fail, and errors of the machine itself are never retried`, () => {
      for (const [state, { Type, Catch, Retry }] of statesOf(definition)) {
        if (Type !== "Task" && Type !== "Map") continue;
        const retriesAll = (Retry ?? []).some(({ ErrorEquals }) => ErrorEquals.includes("States.ALL"));
        assert.ok(Catch !== undefined || retriesAll, `${name}.${state} neither catches nor insists`);
        const names = (Retry ?? []).flatMap(({ ErrorEquals }) => ErrorEquals);
        assert.ok(!names.includes("States.Runtime") && !names.includes("States.QueryEvaluationError"), state);
      }
    });

    it(`${name}: every expression parses`, () => {
      for (const expression of expressionsIn(definition)) assert.doesNotThrow(() => jsonata(expression), expression);
    });
  }

  it("a deletion asks again while a copy on primary is in use or being merged: soon at first, then every 5 minutes", async () => {
    const { States } = machines.find(({ name }) => name === "delete-snapshot")?.definition ?? assert.fail();
    assert.equal(await taken(States.PrimaryGone, { primaryGone: true }), "DeleteBackup");
    assert.equal(await taken(States.PrimaryGone, { primaryGone: false }), "WaitForPrimary");
    assert.equal(States.WaitForPrimary?.Next, "DeletePrimary");
    const [seconds = ""] = [...expressionsIn(States.WaitForPrimary)];
    const waited = [1, 2, 3, 4, 5, 6, 7, 5000].map((waits) => jsonata(seconds).evaluate({}, { waits }));
    assert.deepEqual(await Promise.all(waited), [10, 20, 40, 80, 160, 300, 300, 300]);
    const roundEvents = 11;
    assert.ok((604_800 / 300) * roundEvents < 25_000);
  });

  it("a snapshot of a hypervisor that is away is tried again for some minutes, and then fails", () => {
    const { Take } = machines.find(({ name }) => name === "create-snapshot")?.definition.States ?? {};
    const retry = Take?.Retry?.find(({ ErrorEquals }) => ErrorEquals.includes("HypervisorUnavailable"));
    assert.ok(retry);
    assert.deepEqual(
      retry.ErrorEquals.filter((error) => !isRetryableName(error)),
      [],
    );
    const { IntervalSeconds = 1, BackoffRate = 2, MaxAttempts = 3, MaxDelaySeconds = 60 } = retry;
    const longest = Array.from({ length: MaxAttempts }, (_, index) =>
      Math.min(MaxDelaySeconds, IntervalSeconds * BackoffRate ** index),
    ).reduce((sum, seconds) => sum + seconds);
    // Jitter makes it half of that on average.
    assert.ok(longest > 240 && longest < 360, `${longest} s`);
    assert.equal(Take?.Catch?.[0]?.Next, "Fail");
  });

  it("a failed attempt waits for the interval that the job was given at its start, then counts one more", async () => {
    const wait = machines.find(({ name }) => name === "backup-snapshot")?.definition.States.WaitRetry as unknown as {
      Seconds: string;
      Assign: { attempt: string };
    };
    const [seconds, attempt] = [...expressionsIn([wait.Seconds, wait.Assign.attempt])];
    const states = { context: { Execution: { Input: { policy: { maxAttempts: 3, retryIntervalSeconds: 17 } } } } };
    assert.equal(await jsonata(seconds ?? "").evaluate({}, { states, attempt: 1 }), 17);
    assert.equal(await jsonata(attempt ?? "").evaluate({}, { states, attempt: 1 }), 2);
  });

  it("what was called unchanged is audited before the verification, whether or not there was anything to copy", async () => {
    const states = machines.find(({ name }) => name === "backup-snapshot")?.definition.States ?? {};
    assert.equal(states.AnythingToCopy?.Default, "Hinted");
    assert.equal(states.CopyShards?.Next, "Hinted");
    assert.equal(await taken(states.Hinted, { plan: { hinted: true } }), "AuditHint");
    assert.equal(await taken(states.Hinted, { plan: { hinted: false } }), "Verify");
    assert.equal(await taken(states.AuditFinished, { finished: false }), "AuditHint");
    assert.equal(await taken(states.AuditFinished, { finished: true }), "Verify");
    assert.equal(states.AuditHint?.Catch?.[0]?.Next, "RecordFailure");
  });

  it("a backup is locked after its root is published and before it counts, where its store says so", async () => {
    const states = machines.find(({ name }) => name === "backup-snapshot")?.definition.States ?? {};
    assert.equal(states.PublishRoot?.Next, "ToBeLocked");
    assert.equal(await taken(states.ToBeLocked, { stored: { storedBytes: 1 } }), "Complete");
    assert.equal(await taken(states.ToBeLocked, { stored: { storedBytes: 1, lock: { until: "" } } }), "RetainObjects");
    assert.equal(states.RetainObjects?.Next, "AllRetained");
    assert.equal(await taken(states.AllRetained, { finished: false }), "RetainObjects");
    assert.equal(await taken(states.AllRetained, { finished: true }), "Complete");
    assert.equal(states.RetainObjects?.Catch?.[0]?.Next, "RecordFailure");
  });

  it("a restored volume is given to a VM before the job ends, and a VM that something else is done to is waited for", async () => {
    const states = machines.find(({ name }) => name === "restore-volume")?.definition.States ?? {};
    assert.equal(states.Publish?.Next, "ForVm");
    assert.equal(await taken(states.ForVm, { volume: { forVm: true } }), "GiveToVm");
    for (const volume of [{ forVm: false }, {}]) assert.equal(await taken(states.ForVm, { volume }), "Complete");
    assert.deepEqual([states.GiveToVm?.Next, states.GiveToVm?.Catch?.[0]?.Next], ["Complete", "Abandon"]);
    const busy = states.GiveToVm?.Retry?.find(({ ErrorEquals }) => ErrorEquals.includes("VmBusy"));
    const { IntervalSeconds, MaxAttempts } = busy as unknown as Record<string, number>;
    assert.ok((IntervalSeconds ?? 0) * (MaxAttempts ?? 0) > 60, "a hold that nobody ends lasts 60 s");
  });

  it("a run of checks goes on while there is time, and the next run does the rest", async () => {
    const choice = machines.find(({ name }) => name === "check-backups")?.definition.States.AllChecked;
    const startedAgo = async (seconds: number, finished: boolean) => {
      const StartTime = new Date(Date.now() - seconds * 1000).toISOString();
      for (const { Condition, Next } of choice?.Choices ?? []) {
        const [condition] = [...expressionsIn(Condition)];
        const bindings = { finished, states: { context: { Execution: { StartTime } } } };
        if (await jsonata(condition ?? "").evaluate({}, bindings)) return Next;
      }
      return choice?.Default;
    };
    assert.equal(await startedAgo(0, true), "Report");
    assert.equal(await startedAgo(3_500, false), "CheckBackups");
    assert.equal(await startedAgo(3_700, false), "Report");
  });

  it("a shard's function is called again while it says that it has not finished", async () => {
    const restore = machines.find(({ name }) => name === "restore-volume")?.definition;
    const states = restore?.States.RestoreShards?.ItemProcessor?.States ?? {};
    const [output] = [...expressionsIn((states.RestoreShard as unknown as { Output: string }).Output)];
    const bindings = { states: { input: { shard: 3, from: 0 }, result: { Payload: { finished: false, next: 7 } } } };
    const next: unknown = await jsonata(output ?? "").evaluate({}, bindings);
    assert.equal(JSON.stringify(next), JSON.stringify({ shard: 3, from: 7 }));
    assert.equal(states.ShardFinished?.Default, "RestoreShard");
  });
});
