/** How a state machine's Task reaches its function: `{ machine, state, job, … }` in, plain JSON out, one log line for each. */
import type { Context } from "aws-lambda";
import { type ErrorSummary, summarizeError } from "../domain/errors.ts";
import type { ExecutionInput } from "../domain/job.ts";
import type { Services } from "../services.ts";

/** What every state is given beside its own fields. */
export interface TaskInput {
  readonly job: ExecutionInput;
}

export interface TaskContext {
  /** True when the function should stop, leave things so that the next call goes on, and answer. */
  readonly until: () => boolean;
}

/** Each state types the input that its state machine gives it; who calls one by its name alone knows nothing of that. */
export type StateFunction = (services: Services, input: never, context: TaskContext) => Promise<unknown>;
/** One function for each Task state of a machine, under the state's name. */
export type StateFunctions = Readonly<Record<string, StateFunction>>;

interface TaskEvent {
  readonly machine: string;
  readonly state: string;
  readonly job?: ExecutionInput;
  readonly attempt?: number;
  readonly shard?: number;
}

/** A call stops this long before the function's time is up: enough to seal a pack, upload it and write a checkpoint. */
const reserveMilliseconds = 60_000;

/** How long a state waits for a hypervisor that merges: a Lambda's 900 s with time for all else. */
export const mergeWaitSeconds = 600;

/** Calls the function of a state by its name, with the input that its machine gives it. */
export function callState(
  states: StateFunctions | undefined,
  name: string,
  services: Services,
  input: object,
  context: TaskContext,
): Promise<unknown> {
  const stateFunction = states?.[name];
  if (!stateFunction) throw new Error(`there is no function for the state ${name}`);
  return stateFunction(services, input as never, context);
}

/** The Lambda handler that calls the function named by the event. */
export function taskHandler(services: Services, machines: Readonly<Record<string, StateFunctions>>) {
  return async (event: TaskEvent, context: Context): Promise<unknown> => {
    const { machine, state } = event;
    const startedAt = services.now().getTime();
    const deadline = startedAt + context.getRemainingTimeInMillis() - reserveMilliseconds;
    const until = () => services.now().getTime() >= deadline;
    const inTime: Services = {
      ...services,
      objectStore: (tenant, storeId) => services.objectStore(tenant, storeId, until),
    };
    const about = {
      machine,
      state,
      tenant: event.job?.tenant,
      jobId: event.job?.jobId,
      snapshotId: event.job?.snapshotId,
      attempt: event.attempt,
      shard: event.shard,
    };
    try {
      const result = await callState(machines[machine], state, inTime, event, { until });
      services.logger.info("state done", { ...about, milliseconds: services.now().getTime() - startedAt });
      return result ?? {};
    } catch (error) {
      services.logger.error("state failed", {
        ...about,
        milliseconds: services.now().getTime() - startedAt,
        error: error instanceof Error ? error : String(error),
      });
      throw error;
    }
  };
}

/** What a state's Catch hands over. */
export interface CaughtError {
  readonly Error?: string;
  readonly Cause?: string;
}

/** The error that a function threw, out of what Step Functions makes of it. */
export function causeOf(caught: CaughtError): ErrorSummary {
  const name = caught.Error ?? "Error";
  const cause = caught.Cause ?? "";
  try {
    const { errorMessage } = JSON.parse(cause) as { errorMessage?: unknown };
    if (typeof errorMessage === "string") return { name, message: errorMessage.slice(0, 1000) };
  } catch {
    // A cause that is no JSON is a plain text of the service.
  }
  return { name, message: summarizeError(cause).message };
}
