/** Every answer leaves here: results as JSON, and every error of every kind as a problem (RFC 9457). */
import type { Logger } from "@aws-lambda-powertools/logger";
import type { MiddlewareObj } from "@middy/core";
import type { APIGatewayProxyResult } from "aws-lambda";
import { StateConflict } from "../../domain/errors.ts";
import { isPassingFault } from "../../domain/passing-faults.ts";
import { type ApiEvent, type ApiResponse, instanceOf, proxyResult, requestIdOf } from "../http.ts";
import { Problem, unavailable } from "../problem.ts";

/** Turns what the routes answer or throw into what API Gateway takes, and writes one log line for each request. */
export function problems(
  logger: Pick<Logger, "info" | "error">,
  now: () => number = Date.now,
): MiddlewareObj<ApiEvent, ApiResponse | APIGatewayProxyResult> {
  return {
    after: (request) => {
      const response = request.response as ApiResponse;
      logger.info("request", about(request.event, response.status, now()));
      request.response = proxyResult(response);
    },
    onError: (request) => {
      const problem = problemOf(request.error);
      const { event } = request;
      const entry = { ...about(event, problem.status, now()), problem: problem.kind };
      if (problem.status < 500) logger.info("request refused", entry);
      else logger.error("request failed", { ...entry, error: asError(problem.extras.cause ?? problem) });
      const body = problem.body({ instance: instanceOf(event), requestId: requestIdOf(event) });
      request.response = proxyResult(
        { status: problem.status, body, headers: problem.extras.headers },
        "application/problem+json",
      );
    },
  };
}

/** The problem that an error is. What nobody foresaw is an internal error: its words go to the log, not to the caller. */
export function problemOf(error: unknown): Problem {
  if (error instanceof Problem) return error;
  if (error instanceof StateConflict)
    return new Problem(
      "conflict",
      sentence(error.message),
      error.jobId === undefined ? {} : { members: { jobId: error.jobId } },
    );
  if (isPassingFault(error))
    return unavailable("A service that is needed is overloaded, or has a fault. Try again.", error);
  if (error instanceof Error && error.name === "TimeoutError")
    return new Problem("timed-out", "The answer was not ready in time; what was begun may go on.", { cause: error });
  return new Problem("internal-error", "The log has the reason under this request's id.", { cause: error });
}

function sentence(text: string): string {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

function asError(cause: unknown): Error | string {
  return cause instanceof Error ? cause : String(cause);
}

/** What a log line says of a request: never its token, headers, query or body. */
function about(event: Partial<ApiEvent>, status: number, now: number) {
  const startedAt = event.requestContext?.requestTimeEpoch;
  return {
    requestId: requestIdOf(event),
    tenant: event.caller?.tenant,
    role: event.caller?.role,
    method: event.httpMethod,
    path: event.path,
    status,
    ...(startedAt === undefined ? {} : { milliseconds: Math.max(0, now - startedAt) }),
  };
}
