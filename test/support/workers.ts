/** The processes that a local cloud runs its functions in. */
import { readdir, readFile, readlink } from "node:fs/promises";
import { basename } from "node:path";
import type { RunningCloud } from "./cloud.ts";

/** Those of a function of this cloud, by their environment: functions of other clouds of the machine have the same names. */
export async function workersOf({ endpoint }: RunningCloud, functionName = ""): Promise<number[]> {
  const pids: number[] = [];
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const environment = (await readFile(`/proc/${entry}/environ`, "utf8")).split("\0");
      const program = basename(await readlink(`/proc/${entry}/exe`));
      const isOurs =
        environment.includes(`AWS_LAMBDA_FUNCTION_NAME=${functionName}`) &&
        environment.includes(`AWS_ENDPOINT_URL=${endpoint}`);
      if (program === "node" && isOurs) pids.push(Number(entry));
    } catch {
      // It ended meanwhile, or is not ours to read.
    }
  }
  return pids;
}
