/** The OpenAPI 3.1 document, made from the table of operations and the schemas that requests are checked with. */
import { OpenAPIRegistry, OpenApiGeneratorV31, type RouteConfig } from "@asteasolutions/zod-to-openapi";
import * as z from "zod";
import packageJson from "../../package.json" with { type: "json" };
import { idPattern } from "../domain/ids.ts";
import { defaultStoreId } from "../domain/inventory.ts";
import { type ApiResponse, basePath } from "./http.ts";
import { type Operation, operations } from "./operations.ts";
import { problemKinds } from "./problem.ts";
import { problemSchema } from "./response-schemas.ts";

export type OpenApiDocument = ReturnType<OpenApiGeneratorV31["generateDocument"]>;

const waitHeader = z.string().optional().meta({
  description: "`wait=N`: hold the answer back until the job has ended, N seconds at most; more than 25 counts as 25.",
  example: "wait=20",
});

const idempotencyHeader = z.string().optional().meta({
  minLength: 1,
  maxLength: 255,
  pattern: "^[!-~]+$",
  description: "The same key and body get the same answer for 24 hours; the same key with another body a 422.",
});

const tags = {
  snapshots: "Snapshots of volumes and their backups.",
  jobs: "What is being done, or was.",
  volumes: "What can be backed up, as discovery found it.",
  vms: "Virtual machines, as discovery found them, where the hypervisor has them. A rule gives a VM to a tenant by the VM's name, and each of its disks by the name of its volume: a disk of another tenant is shown without its volume.",
  hypervisors: "Where volumes live.",
  stores: "Where backups go.",
  service: "The service itself.",
} as const satisfies Record<Operation["tag"], string>;

let document: OpenApiDocument | undefined;

/** The document, generated when first asked for. */
export function openApiDocument(): OpenApiDocument {
  document ??= generate();
  return document;
}

export async function readOpenapi(): Promise<ApiResponse> {
  return { status: 200, body: openApiDocument() };
}

function generate(): OpenApiDocument {
  const registry = new OpenAPIRegistry();
  registry.registerComponent("securitySchemes", "bearer", {
    type: "http",
    scheme: "bearer",
    bearerFormat: "JWT",
    description: "Claims `tenant` and `role` (reader, operator or admin).",
  });
  for (const [name, operation] of Object.entries(operations) as [string, Operation][])
    registry.registerPath(routeConfig(name, operation));
  return new OpenApiGeneratorV31(registry.definitions).generateDocument({
    openapi: "3.1.0",
    info: {
      title: "Snapferry",
      version: packageJson.version,
      description: packageJson.description,
      license: { name: packageJson.license, identifier: packageJson.license },
    },
    servers: [{ url: basePath }],
    tags: Object.entries(tags).map(([name, description]) => ({ name, description })),
  });
}

function routeConfig(name: string, operation: Operation): RouteConfig {
  const { method, path, tag, summary, access, id, query, body } = operation;
  const description = [operation.description, access === "public" ? "Needs no token." : `Needs the role ${access}.`];
  const headers = {
    ...(operation.waits ? { Prefer: waitHeader } : {}),
    ...(operation.idempotent ? { "Idempotency-Key": idempotencyHeader } : {}),
  };
  return {
    method: method.toLowerCase() as RouteConfig["method"],
    path,
    operationId: name,
    tags: [tag],
    summary,
    description: description.filter((text) => text !== undefined).join(" "),
    security: access === "public" ? [] : [{ bearer: [] }],
    request: {
      ...(id === undefined ? {} : { params: z.object({ id: pathId(id) }) }),
      query: query as z.ZodObject,
      headers: z.object(headers),
      ...(body === undefined
        ? {}
        : { body: { required: !body.safeParse({}).success, content: { "application/json": { schema: body } } } }),
    },
    responses: { ...answersOf(operation), ...problemsOf(operation) },
  };
}

function pathId(kind: NonNullable<Operation["id"]>): z.ZodType {
  const pattern = idPattern(kind).source;
  return z.string().meta({ pattern: kind === "store" ? `^${defaultStoreId}$|${pattern}` : pattern });
}

function answersOf({ answers, waits }: Operation): RouteConfig["responses"] {
  return Object.fromEntries(
    Object.entries(answers).map(([status, { description, schema, location }]) => [
      status,
      {
        description,
        content: { "application/json": { schema } },
        headers: {
          ...(location ? { Location: header("The path of what was made.") } : {}),
          ...(waits ? { "Preference-Applied": header("The wait that was applied.") } : {}),
        },
      },
    ]),
  );
}

function header(description: string) {
  return { description, schema: { type: "string" as const } };
}

function problemsOf({ access, id, body, idempotent, problems }: Operation): RouteConfig["responses"] {
  const statuses = new Set<number>([
    400,
    ...(access === "public" ? [] : [401, 403]),
    ...(id === undefined ? [] : [404]),
    ...(body === undefined ? [] : [413, 415]),
    ...(idempotent ? [422] : []),
    ...problems,
    500,
    503,
    504,
  ]);
  return Object.fromEntries([...statuses].sort().map((status) => [status, problemAnswer(status)]));
}

function problemAnswer(status: number): RouteConfig["responses"][string] {
  const kinds = Object.entries(problemKinds).filter(([, kind]) => kind.status === status);
  return {
    description: kinds.map(([kind]) => `\`${kind}\``).join(", "),
    ...(status === 503 ? { headers: { "Retry-After": header("Seconds to wait before the next try.") } } : {}),
    content: { "application/problem+json": { schema: problemSchema } },
  };
}
