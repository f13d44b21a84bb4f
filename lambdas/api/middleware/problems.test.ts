import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { DynamoDBServiceException } from "@aws-sdk/client-dynamodb";
import { TooManyRequestsException } from "@aws-sdk/client-lambda";
import { problemOf } from "./problems.ts";

describe("an error that nobody turned into an answer", () => {
  it("is a 503 that says when to come again, while a service of AWS is asked too much or has a fault", () => {
    for (const error of [
      new TooManyRequestsException({ message: "Rate exceeded", $metadata: { httpStatusCode: 429 } }),
      new DynamoDBServiceException({
        name: "ThrottlingException",
        message: "Rate of account 000000000000 exceeded",
        $fault: "client",
        $metadata: { httpStatusCode: 400 },
      }),
    ]) {
      const problem = problemOf(error);
      assert.deepEqual([problem.status, problem.kind], [503, "unavailable"]);
      assert.equal(problem.extras.headers?.["Retry-After"], "5");
      assert.equal(problem.extras.cause, error);
      assert.doesNotMatch(problem.message, /exceeded/, "a service's words go to the log only");
    }
  });

  it("is a 500 without its words when it is any other", () => {
    for (const error of [
      new Error("secret words"),
      new DynamoDBServiceException({
        name: "ValidationException",
        message: "secret words",
        $fault: "client",
        $metadata: { httpStatusCode: 400 },
      }),
    ]) {
      const problem = problemOf(error);
      assert.equal(problem.status, 500);
      assert.doesNotMatch(problem.message, /secret words/);
    }
  });
});
