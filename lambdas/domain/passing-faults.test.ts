import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { DynamoDBServiceException, TransactionCanceledException } from "@aws-sdk/client-dynamodb";
import { EC2ThrottledException, ResourceNotFoundException, TooManyRequestsException } from "@aws-sdk/client-lambda";
import { isPassingFault } from "./passing-faults.ts";

const of = (httpStatusCode: number) => ({ message: "no", $metadata: { httpStatusCode } });
const cancelled = (Code: string) =>
  new TransactionCanceledException({ ...of(400), CancellationReasons: [{ Code: "None" }, { Code }] });

describe("a fault of a service passes", () => {
  it("when it asks to be called more slowly, whatever it calls that", () => {
    for (const error of [
      new DynamoDBServiceException({ ...of(400), name: "ThrottlingException", $fault: "client" }),
      new TooManyRequestsException(of(429)),
      new EC2ThrottledException({ ...of(502), $metadata: {} }),
      cancelled("ThrottlingError"),
      cancelled("TransactionConflict"),
    ])
      assert.equal(isPassingFault(error), true, error.name);
  });

  it("when it is the service's own", () => {
    assert.equal(isPassingFault(new DynamoDBServiceException({ ...of(500), name: "X", $fault: "server" })), true);
  });

  it("not when the request was wrong, the thing is not there, or a condition failed", () => {
    for (const error of [
      new ResourceNotFoundException(of(404)),
      new DynamoDBServiceException({ ...of(400), name: "ValidationException", $fault: "client" }),
      cancelled("ConditionalCheckFailed"),
    ])
      assert.equal(isPassingFault(error), false, error.name);
  });

  it("not when it is no fault of a service", () => {
    const named = Object.assign(new Error("ours"), { name: "ThrottlingException" });
    for (const error of [named, Object.assign(new Error(), { $metadata: undefined }), "ThrottlingException", undefined])
      assert.equal(isPassingFault(error), false);
  });
});
