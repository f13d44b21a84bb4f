import type { ImportAnswer, ImportRequest } from "../domain/backup-import.ts";
import { functionCall } from "./invoke-function.ts";

/** How long an answer may take; the API gives up after 29 seconds. The caller may repeat the whole request. */
const requestMilliseconds = 27_000;

/** Has the function of that name import. Throws as {@link functionCall} does. */
export function importFunction(name: string): (request: ImportRequest) => Promise<ImportAnswer> {
  const call = functionCall(name, requestMilliseconds);
  return async (request) => JSON.parse(await call(request)) as ImportAnswer;
}
