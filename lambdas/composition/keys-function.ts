import { InvokeCommand, LambdaClient } from "@aws-sdk/client-lambda";

/** The function gives up after 5 seconds; some more for its start. */
const requestMilliseconds = 10_000;

/** A `fetch` of the issuer's keys that has the function of that name fetch them. Throws when it cannot. */
export function keysFunction(name: string): () => Promise<Response> {
  const client = new LambdaClient({ maxAttempts: 1, requestHandler: { requestTimeout: requestMilliseconds } });
  return async () => {
    const answer = await client.send(new InvokeCommand({ FunctionName: name }));
    const text = answer.Payload?.transformToString() ?? "";
    if (answer.FunctionError !== undefined) throw new Error(`${name} failed: ${text.slice(0, 1000)}`);
    return new Response(text, { headers: { "content-type": "application/json" } });
  };
}
