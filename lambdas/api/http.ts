/** What passes between the middlewares and the functions behind the routes. */
import type { APIGatewayProxyEvent, APIGatewayProxyResult } from "aws-lambda";

/** In ascending order: each may do what those before it may. */
export const roles = ["reader", "operator", "admin"] as const;
export type Role = (typeof roles)[number];

/** Who asks, as the token says. */
export interface Caller {
  readonly tenant: string;
  readonly role: Role;
}

export function mayActAs(caller: Caller, role: Role): boolean {
  return roles.indexOf(caller.role) >= roles.indexOf(role);
}

/** The event with what the middlewares found out. */
export interface ApiEvent extends APIGatewayProxyEvent {
  caller?: Caller;
  /** The body as JSON; `{}` when there was none. */
  json?: unknown;
  idempotencyKey?: string;
}

export interface ApiResponse {
  readonly status: number;
  readonly body: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** The job that the answer is about, and the answer anew: what `Prefer: wait` needs. */
  readonly pending?: { readonly jobId: string; answer(): Promise<ApiResponse> };
}

/** The version is the stage of the REST API: the first part of every path. */
export const basePath = "/v1";

/** The path that the caller used, stage included. */
export function instanceOf(event: Partial<ApiEvent>): string {
  return `${basePath}${event.path ?? ""}`;
}

export function requestIdOf(event: Partial<ApiEvent>): string {
  return event.requestContext?.requestId ?? "unknown";
}

/** The answer as API Gateway takes it. Nothing of this API may be cached: states change by themselves. */
export function proxyResult(response: ApiResponse, contentType = "application/json"): APIGatewayProxyResult {
  return {
    statusCode: response.status,
    headers: { "Content-Type": contentType, "Cache-Control": "no-store", ...response.headers },
    body: JSON.stringify(response.body),
  };
}
