/** Imports: the request is checked here, and done by a function that may read stores. */
import { formatPosition, type ImportAnswer, type ImportRequest } from "../domain/backup-import.ts";
import { defaultStoreId } from "../domain/inventory.ts";
import type { Services } from "../services.ts";
import { getStore } from "../tables/stores.ts";
import type { ApiRequest } from "./api-handler.ts";
import { encodeCursor } from "./cursor.ts";
import type { ApiResponse } from "./http.ts";
import type { operations } from "./operations.ts";
import { notFound, Problem, unavailable } from "./problem.ts";

export async function importBackups(
  services: Services,
  doImport: (request: ImportRequest) => Promise<ImportAnswer>,
  { caller: { tenant }, id, query }: ApiRequest<(typeof operations)["importBackups"]>,
): Promise<ApiResponse> {
  if (id !== defaultStoreId && !(await getStore(services.database, tenant, id))) throw notFound("store", id);
  const { limit, cursor: after } = query;
  const answer = await doImport({ tenant, storeId: id, limit, ...(after && { after }) });
  if ("problem" in answer) {
    if (answer.passes) throw unavailable(`${id} cannot be read now: ${answer.problem}`, answer.problem);
    throw new Problem("conflict", `${id} cannot be read as it is: ${answer.problem}`);
  }
  const { next, ...page } = answer;
  return { status: 200, body: { ...page, ...(next && { nextCursor: encodeCursor(formatPosition(next)) }) } };
}
