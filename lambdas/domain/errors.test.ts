import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as errors from "./errors.ts";

type ErrorClass = new (message: string) => errors.SnapferryError;

const classes = Object.values(errors).filter(
  (one) => one.prototype instanceof errors.SnapferryError,
) as unknown as ErrorClass[];

describe("an error", () => {
  for (const errorClass of classes)
    it(`${errorClass.name} is worth another attempt by its name as by its class`, () => {
      const error = new errorClass("it failed");
      assert.equal(errors.isRetryableName(error.name), errors.isRetryable(error));
    });

  it("that nobody knows is worth another attempt", () => {
    assert.equal(errors.isRetryableName("Lambda.Unknown"), true);
    assert.equal(errors.isRetryable(new TypeError("a bug")), true);
  });
});
