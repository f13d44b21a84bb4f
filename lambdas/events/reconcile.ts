/** An execution has ended badly: its job is looked at now, without waiting for the next round of garbage collection. */
import type { EventBridgeEvent } from "aws-lambda";
import { composeServices } from "../composition/services.ts";
import type { ExecutionInput } from "../domain/job.ts";
import { settleJob } from "../endings/reconcile.ts";
import { jobIdOfExecution } from "../executions/executions.ts";

const services = composeServices();

interface ExecutionStatusChange {
  readonly executionArn: string;
  readonly status: string;
  readonly input?: string;
}

export async function handler(event: EventBridgeEvent<string, ExecutionStatusChange>): Promise<void> {
  const { executionArn, input, status } = event.detail;
  const jobId = jobIdOfExecution(executionArn);
  const tenant = tenantOf(input);
  if (!jobId || !tenant) return;
  const acted = await settleJob(services, tenant, jobId);
  services.logger.info("execution ended", { jobId, tenant, status, acted });
}

/** Events leave out inputs that are too long; ours are short, so one without is not ours. */
function tenantOf(input: string | undefined): string | undefined {
  try {
    return (JSON.parse(input ?? "{}") as Partial<ExecutionInput>).tenant;
  } catch {
    return undefined;
  }
}
