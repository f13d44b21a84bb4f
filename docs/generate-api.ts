/** Writes docs/api.md from the OpenAPI document: `npm run docs`. */
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type OpenApiDocument, openApiDocument } from "../lambdas/api/openapi.ts";
import { problemKinds } from "../lambdas/api/problem.ts";

interface Schema {
  readonly $ref?: string;
  readonly allOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly type?: string | readonly string[];
  readonly format?: string;
  readonly description?: string;
  readonly enum?: readonly unknown[];
  readonly items?: Schema;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: Schema | boolean;
  readonly required?: readonly string[];
  readonly default?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly maxProperties?: number;
}

interface Parameter {
  readonly name: string;
  readonly in: "path" | "query" | "header";
  readonly required?: boolean;
  readonly description?: string;
  readonly schema: Schema;
}

interface Operation {
  readonly tags: readonly string[];
  readonly summary: string;
  readonly description: string;
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: Schema }>> };
  readonly responses: Readonly<
    Record<
      string,
      { readonly description: string; readonly content?: Readonly<Record<string, { readonly schema: Schema }>> }
    >
  >;
}

const introduction = `# The API

<!-- Written by npm run docs from the OpenAPI document. Change lambdas/api, not this file. -->

All paths are below \`/v1\`. Bodies and answers are JSON; times are ISO 8601 in UTC; sizes are bytes. \`GET /v1/openapi.json\` has all of
this for machines.

**Tokens.** \`Authorization: Bearer TOKEN\` with a JWT of the configured issuer (ES256, RS256 or EdDSA) that has the claims \`exp\`, \`tenant\`
and \`role\`. A \`reader\` looks; an \`operator\` also makes, restores and deletes snapshots, cancels jobs and operates VMs; an \`admin\` also registers
hypervisors and stores and sees volumes and VMs that no rule has assigned. Without a valid token the answer is 401, with too low a role 403, and what
belongs to another tenant is a 404 like what never was. (API Gateway renames the header of a 401 to \`x-amzn-Remapped-WWW-Authenticate\`.)

**Jobs.** What takes time is answered with 202, the job, and its path in \`Location\`. \`Prefer: wait=N\` holds the answer back until the job has
ended, for at most 25 seconds: then it is a 200; if the job has not ended, the 202 or, for \`GET /jobs/{id}\`, the job as it is.

**Idempotency.** A POST that makes something takes an \`Idempotency-Key\` (1 to 255 visible ASCII characters). Within 24 hours the same key and
body get the same answer, also when many come at once; the same key with another body is a 422. A refusal is not kept: the request is judged
anew.

**Lists.** \`limit\` (1 to 100, 25 if absent) and \`cursor\`, the \`nextCursor\` of the page before. Unknown parameters are refused.

**Problems.** Whatever is not a success is \`application/problem+json\` (RFC 9457). \`errors\` names each wrong field by its JSON pointer, query
parameter or header; conflicts name the \`jobs\` that stand in the way.

\`\`\`json
{
  "type": "/problems/invalid-request",
  "title": "The request is not valid",
  "status": 400,
  "detail": "2 fields are wrong.",
  "instance": "/v1/volumes/vol_01JD7QXN8ZK4V1TQ3C5M9R2WEY/snapshots",
  "requestId": "7c1f…",
  "errors": [
    { "pointer": "/asyncBackup", "detail": "must be true or false, not \\"yes\\"" },
    { "pointer": "/asyncBakcup", "detail": "is not a field of this request; did you mean asyncBackup?" }
  ]
}
\`\`\`
`;

/** The document as a page for people. */
export function renderApi(document: OpenApiDocument): string {
  const schemas = (document.components?.schemas ?? {}) as Record<string, Schema>;
  const operations = Object.entries(document.paths ?? {}).flatMap(([path, item]) =>
    Object.entries(item as Record<string, Operation>).map(([method, operation]) => ({ path, method, operation })),
  );
  const sections = (document.tags ?? []).map(({ name, description }) => {
    const own = operations.filter(({ operation }) => operation.tags.includes(name));
    const parts = own.map(({ path, method, operation }) => renderOperation(method, path, operation, schemas));
    return [`## ${capitalised(name)}`, description ?? "", ...parts].join("\n\n");
  });
  return [introduction, ...sections, renderSchemas(schemas), renderProblems()].join("\n").replaceAll(/\n{3,}/g, "\n\n");
}

function renderOperation(method: string, path: string, operation: Operation, schemas: Record<string, Schema>): string {
  const body = operation.requestBody?.content["application/json"]?.schema;
  const parameters = (operation.parameters ?? []).filter((parameter) => parameter.in !== "path");
  const answers = Object.entries(operation.responses).filter(([status]) => Number(status) < 300);
  const refusals = Object.keys(operation.responses).filter((status) => Number(status) >= 400);
  return [
    `### \`${method.toUpperCase()} ${path}\``,
    `${operation.summary}. ${operation.description}`,
    ...(parameters.length === 0 ? [] : [renderParameters(parameters)]),
    ...(body === undefined ? [] : renderBody(resolved(body, schemas), schemas)),
    [
      ...answers.map(([status, answer]) => `- ${status}: ${answer.description}${answerType(answer.content)}`),
      `- Problems: ${refusals.join(", ")}`,
    ].join("\n"),
  ].join("\n\n");
}

function answerType(content: Readonly<Record<string, { readonly schema: Schema }>> | undefined): string {
  const schema = content?.["application/json"]?.schema;
  return schema === undefined ? "" : ` ${typeOf(schema)}`;
}

function renderParameters(parameters: readonly Parameter[]): string {
  const rows = parameters.map(
    ({ name, in: place, schema, description }) =>
      `| \`${name}\` | ${place} | ${typeOf(schema)} | ${notes({ ...schema, description: description ?? schema.description })} |`,
  );
  return ["| Parameter | In | Type | |", "|---|---|---|---|", ...rows].join("\n");
}

/** The fields; of a body that may be of several kinds, those of each. */
function renderBody(body: Schema, schemas: Record<string, Schema>): string[] {
  if (body.oneOf === undefined) return [`Body:\n\n${renderFields(body)}`];
  return body.oneOf
    .map((kind) => resolved(kind, schemas))
    .map((kind) => `Body, ${typeOf(kind.properties?.kind ?? {})}: ${kind.description ?? ""}\n\n${renderFields(kind)}`);
}

function renderFields(schema: Schema): string {
  const entries = Object.entries(schema.properties ?? {});
  if (entries.length === 0) return "An empty object, or nothing.";
  const required = new Set(schema.required ?? []);
  const rows = entries.flatMap(([name, field]) => fieldRows(name, field, required.has(name)));
  return ["| Field | Type | |", "|---|---|---|", ...rows].join("\n");
}

/** A field, and those of the object (or of the objects in the list) that it is. */
function fieldRows(name: string, field: Schema, required: boolean): string[] {
  const inner = field.properties ?? field.items?.properties;
  const innerRequired = new Set(field.required ?? field.items?.required ?? []);
  const prefix = field.properties ? `${name}.` : `${name}[].`;
  return [
    `| \`${name}\`${required ? "" : "?"} | ${typeOf(field)} | ${notes(field)} |`,
    ...Object.entries(inner ?? {}).flatMap(([key, value]) => fieldRows(prefix + key, value, innerRequired.has(key))),
  ];
}

function renderSchemas(schemas: Record<string, Schema>): string {
  const answers = Object.entries(schemas).filter(
    ([, schema]) => schema.additionalProperties !== false && schema.properties,
  );
  const parts = answers
    .sort(([left], [right]) => left.localeCompare(right, "en"))
    .map(([name, schema]) => [`### ${name}`, schema.description ?? "", renderFields(schema)].join("\n\n"));
  return ["## What answers hold", "Fields with a `?` may be absent.", ...parts].join("\n\n");
}

function renderProblems(): string {
  const rows = Object.entries(problemKinds).map(
    ([kind, { status, title }]) => `| ${status} | \`/problems/${kind}\` | ${title} |`,
  );
  return `\n\n## Problems\n\n| Status | \`type\` | \`title\` |\n|---|---|---|\n${rows.join("\n")}\n`;
}

function typeOf(schema: Schema): string {
  const reference = schema.$ref ?? schema.allOf?.find((part) => part.$ref)?.$ref;
  if (reference !== undefined) {
    const name = reference.split("/").at(-1) ?? "";
    return `[${name}](#${name.toLowerCase()})`;
  }
  if (schema.enum) return schema.enum.map((value) => `\`${value}\``).join(", ");
  if (schema.items) return `list of ${typeOf(schema.items)}`;
  if (typeof schema.additionalProperties === "object" && schema.type === "object" && !schema.properties)
    return `object of ${typeOf(schema.additionalProperties)}`;
  return schema.format === "date-time" ? "time" : [schema.type ?? "any"].flat().join(" or ");
}

function notes(schema: Schema): string {
  const bounds = [
    schema.minimum !== undefined && schema.minimum > 0 ? `at least ${schema.minimum}` : "",
    schema.maximum !== undefined && schema.maximum < Number.MAX_SAFE_INTEGER ? `at most ${schema.maximum}` : "",
    schema.maxLength !== undefined ? `at most ${schema.maxLength} characters` : "",
    schema.maxProperties !== undefined ? `at most ${schema.maxProperties}` : "",
    schema.default !== undefined ? `default \`${JSON.stringify(schema.default)}\`` : "",
  ].filter((bound) => bound !== "");
  return [schema.description ?? "", bounds.join("; ")]
    .filter((text) => text !== "")
    .join(" ")
    .replaceAll("|", "\\|");
}

function resolved(schema: Schema, schemas: Record<string, Schema>): Schema {
  return schema.$ref === undefined ? schema : (schemas[schema.$ref.split("/").at(-1) ?? ""] ?? {});
}

function capitalised(text: string): string {
  return text.replace(/^./, (letter) => letter.toUpperCase());
}

/** Where the page is. */
export const apiPage = fileURLToPath(new URL("api.md", import.meta.url));

if (import.meta.main) writeFileSync(apiPage, renderApi(openApiDocument()));
