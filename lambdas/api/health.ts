/** Whether the service works: it can read a table. */
import packageJson from "../../package.json" with { type: "json" };
import { backupPool } from "../domain/pool.ts";
import type { Services } from "../services.ts";
import { getPool } from "../tables/pools.ts";
import type { ApiResponse } from "./http.ts";
import { unavailable } from "./problem.ts";

export const { version } = packageJson;

export async function readHealth(services: Pick<Services, "database">): Promise<ApiResponse> {
  try {
    await getPool(services.database, backupPool);
  } catch (cause) {
    throw unavailable("The tables cannot be read.", cause);
  }
  return { status: 200, body: { status: "ok", version } };
}
