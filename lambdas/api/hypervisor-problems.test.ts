import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as errors from "../domain/errors.ts";
import { hypervisorProblem } from "./hypervisor-problems.ts";
import { Problem } from "./problem.ts";

type Fault = new (message: string) => errors.SnapferryError;

/** Every class that can be made, but for the one that is no fault of a hypervisor. */
const faults = Object.values(errors).filter(
  (one) => typeof one === "function" && one.prototype instanceof errors.SnapferryError && one !== errors.StateConflict,
) as unknown as Fault[];

describe("a fault of a hypervisor", () => {
  for (const Fault of faults)
    it(`${Fault.name} is a problem that says what went wrong, and whether to try again`, () => {
      const fault = new Fault("The host said no.");
      const problem = hypervisorProblem("hyp_1", fault);
      assert.ok(problem instanceof Problem);
      assert.equal(problem.status, fault.retryable ? 503 : 409);
      assert.match(problem.message, /The host said no\./);
    });

  it("that is none is left to who knows it", () => {
    for (const error of [new errors.StateConflict("x"), new TypeError("x"), undefined])
      assert.equal(hypervisorProblem("hyp_1", error), error);
  });
});
