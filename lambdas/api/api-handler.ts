/** Puts the middlewares around the functions behind the routes: the same chain for every operation, as the table of operations says. */
import type { Logger } from "@aws-lambda-powertools/logger";
import middy from "@middy/core";
import httpEventNormalizer from "@middy/http-event-normalizer";
import httpHeaderNormalizer from "@middy/http-header-normalizer";
import httpRouter from "@middy/http-router";
import type { APIGatewayProxyEvent, APIGatewayProxyResult, Context } from "aws-lambda";
import { idPattern } from "../domain/ids.ts";
import { defaultStoreId } from "../domain/inventory.ts";
import type { Job } from "../domain/job.ts";
import type { ApiEvent, ApiResponse, Caller } from "./http.ts";
import { authenticate, type TokenSettings } from "./middleware/authenticate.ts";
import { idempotencyKey } from "./middleware/idempotency.ts";
import { jsonBody } from "./middleware/json-body.ts";
import { preferWait } from "./middleware/prefer-wait.ts";
import { problems } from "./middleware/problems.ts";
import type { BodyOf, Operation, QueryOf } from "./operations.ts";
import { type FieldError, invalidRequest, notFound, Problem } from "./problem.ts";
import { parseBody, parseQuery } from "./validation.ts";

/** A request that has passed every check which needs no table. */
export interface ApiRequest<O extends Operation> {
  readonly caller: Caller;
  readonly method: string;
  readonly path: string;
  /** The `{id}` of the path, of the right shape; empty where the path has none. */
  readonly id: string;
  readonly query: QueryOf<O>;
  readonly body: BodyOf<O>;
  readonly idempotencyKey: string | undefined;
}

/** An operation and the function behind it. */
export interface Route {
  readonly operation: Operation;
  readonly answer: (event: ApiEvent) => Promise<ApiResponse>;
}

/** An operation for callers with a token. */
export function route<const O extends Operation>(
  operation: O,
  answer: (request: ApiRequest<O>) => Promise<ApiResponse>,
): Route {
  return {
    operation,
    answer: async (event) => {
      if (!event.caller) throw new Problem("unauthorized", "This needs a token.");
      return answer({ caller: event.caller, ...checkedRequest(operation, event) });
    },
  };
}

/** An operation for everybody. */
export function publicRoute(operation: Operation & { access: "public" }, answer: () => Promise<ApiResponse>): Route {
  return {
    operation,
    answer: async (event) => {
      checkedRequest(operation, event);
      return answer();
    },
  };
}

export interface ApiOptions {
  readonly logger: Pick<Logger, "info" | "error">;
  readonly tokens: TokenSettings | undefined;
  readonly readJob: (tenant: string, id: string) => Promise<Job | undefined>;
}

/** Time that is kept back to say that the time is up. */
const reserveMilliseconds = 500;

/** The Lambda handler for these routes. */
export function apiHandler(
  routes: readonly Route[],
  options: ApiOptions,
): (event: APIGatewayProxyEvent, context: Context) => Promise<APIGatewayProxyResult> {
  const router = httpRouter<ApiEvent, APIGatewayProxyResult>({
    routes: routes.map((one) => ({
      method: one.operation.method,
      path: one.operation.path,
      handler: chain(one, options) as never,
    })),
    notFoundResponse: ({ method, path }) => {
      throw noSuchRoute(routes, method, path);
    },
  });
  const handler = middy<ApiEvent, APIGatewayProxyResult>({ timeoutEarlyInMillis: reserveMilliseconds })
    .use([problems(options.logger), httpEventNormalizer(), httpHeaderNormalizer()])
    .handler(router as never) as unknown as (
    event: APIGatewayProxyEvent,
    context: Context,
  ) => Promise<APIGatewayProxyResult>;
  return (event, context) => handler({ ...event, path: event.path || "/" }, context);
}

function chain({ operation, answer }: Route, { tokens, readJob }: ApiOptions) {
  const { access } = operation;
  return middy<ApiEvent, ApiResponse>({ timeoutEarlyInMillis: 0 })
    .use([
      ...(access === "public" ? [] : [authenticate(tokens, access)]),
      ...(operation.body === undefined ? [] : [jsonBody()]),
      ...(operation.idempotent ? [idempotencyKey()] : []),
      ...(operation.waits ? [preferWait({ readJob })] : []),
    ])
    .handler(((event: ApiEvent) => answer(event)) as never);
}

function checkedRequest<O extends Operation>(operation: O, event: ApiEvent): Omit<ApiRequest<O>, "caller"> {
  const id = event.pathParameters?.id ?? "";
  if (operation.id && !isId(operation.id, id)) throw notFound(operation.id, decoded(id));
  return {
    method: event.httpMethod,
    path: event.path,
    id,
    query: parseQuery(operation.query, singleValues(event)) as QueryOf<O>,
    body: (operation.body === undefined ? undefined : parseBody(operation.body, event.json)) as BodyOf<O>,
    idempotencyKey: event.idempotencyKey,
  };
}

function isId(kind: NonNullable<Operation["id"]>, id: string): boolean {
  return idPattern(kind).test(id) || (kind === "store" && id === defaultStoreId);
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function singleValues(event: ApiEvent): Record<string, string> {
  const all = event.multiValueQueryStringParameters ?? {};
  const twice = Object.keys(all).filter((name) => (all[name]?.length ?? 0) > 1);
  if (twice.length > 0)
    throw invalidRequest(twice.map((parameter): FieldError => ({ parameter, detail: "is given more than once" })));
  const single = Object.entries(event.queryStringParameters ?? {});
  return Object.fromEntries(single.filter((entry): entry is [string, string] => typeof entry[1] === "string"));
}

/** 405 with the methods that the path has; 404 when it has none. */
function noSuchRoute(routes: readonly Route[], method: string, path: string): Problem {
  const allowed = routes.filter((one) => pathPattern(one.operation.path).test(path)).map((one) => one.operation.method);
  if (allowed.length === 0)
    return new Problem("not-found", "There is nothing at this path; GET /v1/openapi.json lists what there is.");
  const methods = [...new Set(allowed)].sort().join(", ");
  return new Problem(
    "method-not-allowed",
    `${method} is not allowed here; ${methods} ${methods.includes(",") ? "are" : "is"}.`,
    {
      headers: { Allow: methods },
    },
  );
}

function pathPattern(path: string): RegExp {
  return new RegExp(`^${path.replaceAll(".", "\\.").replaceAll(/\{[^}]+\}/g, "[^/]+")}/?$`);
}
