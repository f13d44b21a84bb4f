import assert from "node:assert/strict";
import { test } from "node:test";
import { plainEnvironment } from "./cloud/environment.ts";
import { install } from "./cloud/install.ts";
import { LAMBDA_EXECUTOR, NODE_BINARY } from "./cloud/paths.ts";
import { run } from "./cloud/process.ts";

const TIMEOUT_MS = 180_000;

test("the Lambda executor's own tests pass", { timeout: TIMEOUT_MS * 2 }, async (t) => {
  const { python, lambdaExecutor } = await install();
  const result = await run(
    python,
    ["-m", "unittest", "discover", "--verbose", "--start-directory", "tests", "--top-level-directory", "."],
    {
      cwd: LAMBDA_EXECUTOR,
      env: {
        ...plainEnvironment(),
        PYTHONPATH: lambdaExecutor,
        PYTHONDONTWRITEBYTECODE: "1",
        SNAPFERRY_NODE: NODE_BINARY,
      },
      timeoutMs: TIMEOUT_MS,
    },
  );
  const summary = result.stderr.trimEnd().split("\n").slice(-4).join("\n");
  t.diagnostic(summary);
  assert.equal(result.code, 0, result.stderr);
  assert.match(result.stderr, /^Ran [1-9]\d* tests/m);
});
