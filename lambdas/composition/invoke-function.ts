import { InvokeCommand, LambdaClient } from "@aws-sdk/client-lambda";

/**
 * Calls of the function of that name: each is made once and ends after `timeoutMilliseconds`. They answer the JSON that the function
 * returned, as text, and throw what is no answer of it: a fault of the function, or of the way there.
 */
export function functionCall(name: string, timeoutMilliseconds: number): (payload?: unknown) => Promise<string> {
  const client = new LambdaClient({
    maxAttempts: 1,
    // Without the second option the SDK only logs a warning and goes on waiting.
    requestHandler: { requestTimeout: timeoutMilliseconds, throwOnRequestTimeout: true },
  });
  return async (payload) => {
    const answer = await client.send(new InvokeCommand({ FunctionName: name, Payload: JSON.stringify(payload) }));
    const text = answer.Payload?.transformToString() ?? "";
    if (answer.FunctionError !== undefined) throw new Error(`${name} failed: ${text.slice(0, 1000)}`);
    return text;
  };
}
