import { functionCall } from "./invoke-function.ts";

/** The function gives up after 5 seconds; some more for its start. */
const requestMilliseconds = 10_000;

/** A `fetch` of the issuer's keys that has the function of that name fetch them. Throws as {@link functionCall} does. */
export function keysFunction(name: string): () => Promise<Response> {
  const call = functionCall(name, requestMilliseconds);
  return async () => new Response(await call(), { headers: { "content-type": "application/json" } });
}
