/** The body as JSON. What is no JSON, too large or declared as something else is refused before anything looks at it. */
import type { MiddlewareObj } from "@middy/core";
import httpJsonBodyParser from "@middy/http-json-body-parser";
import type { ApiEvent, ApiResponse } from "../http.ts";
import { invalidRequest, Problem } from "../problem.ts";

/** The largest valid request is 50 tags of 384 characters, each `\uXXXX\uXXXX` at worst: 230 KB. */
const mostBytes = 256 * 1024;

/** Puts the parsed body into `event.json`; no body at all is `{}`. */
export function jsonBody(): MiddlewareObj<ApiEvent, ApiResponse> {
  const parser = httpJsonBodyParser();
  return {
    before: async (request) => {
      const { event } = request;
      const text = bodyText(event);
      if (text.trim() === "") {
        event.json = {};
        return;
      }
      try {
        const parsed = { ...request, event: { ...event, body: text, isBase64Encoded: false } };
        await parser.before?.(parsed as unknown as Parameters<NonNullable<typeof parser.before>>[0]);
        event.json = parsed.event.body;
      } catch (error) {
        throw problemOf(error, event.headers?.["content-type"]);
      }
    },
  };
}

function bodyText(event: ApiEvent): string {
  const { body, isBase64Encoded } = event;
  if (body === null || body === undefined) return "";
  const bytes = Buffer.from(body, isBase64Encoded ? "base64" : "utf8");
  if (bytes.length > mostBytes)
    throw new Problem("too-large", `The body has ${bytes.length} bytes; at most ${mostBytes} are taken.`);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new Problem("malformed-json", "The body is not UTF-8.", { cause });
  }
}

/** The parser's errors carry the status that it would answer with, and the cause. */
function problemOf(error: unknown, contentType: string | undefined): Problem {
  const { statusCode, message, cause } = error as {
    statusCode?: number;
    message?: string;
    cause?: { data?: unknown; message?: string };
  };
  if (statusCode === 415) {
    const was = contentType === undefined ? "none was given" : `not ${JSON.stringify(contentType.slice(0, 100))}`;
    return new Problem("unsupported-media-type", `The Content-Type must be application/json; ${was}.`);
  }
  if (message === "Forbidden key in JSON body")
    return invalidRequest([{ pointer: `/${String(cause?.data)}`, detail: "is not a field of this request" }]);
  return new Problem("malformed-json", "The body is not valid JSON.");
}
