import { InvokeCommand, LambdaClient } from "@aws-sdk/client-lambda";
import type { ImportAnswer, ImportRequest } from "../domain/backup-import.ts";

/** How long an answer may take; the API gives up after 29 seconds. One attempt: the caller may repeat the whole request. */
const requestMilliseconds = 27_000;

/** Has the function of that name import. Throws what is no answer of it: a fault of the function, or of the way there. */
export function importFunction(name: string): (request: ImportRequest) => Promise<ImportAnswer> {
  const client = new LambdaClient({ maxAttempts: 1, requestHandler: { requestTimeout: requestMilliseconds } });
  return async (request) => {
    const answer = await client.send(new InvokeCommand({ FunctionName: name, Payload: JSON.stringify(request) }));
    const text = answer.Payload?.transformToString() ?? "";
    if (answer.FunctionError !== undefined) throw new Error(`${name} failed: ${text.slice(0, 1000)}`);
    return JSON.parse(text) as ImportAnswer;
  };
}
