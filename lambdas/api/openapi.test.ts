import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { apiPage, renderApi } from "../../docs/generate-api.ts";
import { openApiDocument } from "./openapi.ts";
import { type Operation, operations } from "./operations.ts";
import { problemKinds } from "./problem.ts";

describe("the OpenAPI document", () => {
  const document = openApiDocument();
  const paths = document.paths as Record<
    string,
    Record<string, { operationId: string; security: unknown[]; responses: object }>
  >;

  test("is of version 3.1 and has every operation", () => {
    assert.equal(document.openapi, "3.1.0");
    for (const [name, operation] of Object.entries(operations) as [string, Operation][]) {
      const described = paths[operation.path]?.[operation.method.toLowerCase()];
      assert.equal(described?.operationId, name);
      assert.equal(described?.security.length, operation.access === "public" ? 0 : 1);
    }
  });

  test("an operation under an id of the caller's choice tells that it may be taken", () => {
    assert.ok("409" in (paths["/hypervisors"]?.post?.responses ?? {}));
  });

  test("whoever is told to come again is told when", () => {
    for (const methods of Object.values(paths))
      for (const { responses } of Object.values(methods))
        assert.ok("Retry-After" in ((responses as { "503": { headers?: object } })["503"].headers ?? {}));
  });

  test("every problem that there is can be an answer of some operation", () => {
    const told = new Set(
      Object.values(paths).flatMap((methods) =>
        Object.values(methods).flatMap(({ responses }) => Object.keys(responses)),
      ),
    );
    const untold = Object.values(problemKinds).filter(({ status }) => !told.has(String(status)));
    assert.deepEqual(untold.map(({ status }) => status).sort(), [405], "405 belongs to no operation");
  });

  test("every reference leads somewhere", () => {
    const text = JSON.stringify(document);
    for (const [, name] of text.matchAll(/"#\/components\/schemas\/([^"]+)"/g))
      assert.ok(document.components?.schemas?.[name ?? ""], name);
  });

  test("says what is refused: unknown fields, and bounds of the others", () => {
    const body = document.components?.schemas?.CreateSnapshot as {
      additionalProperties: boolean;
      properties: Record<string, { maxLength?: number }>;
    };
    assert.equal(body.additionalProperties, false);
    assert.equal(body.properties.name?.maxLength, 255);
    assert.equal(body.properties.description?.maxLength, 1024);
  });

  test("docs/api.md is current (npm run docs writes it)", () => {
    assert.equal(readFileSync(apiPage, "utf8"), renderApi(document));
  });
});
