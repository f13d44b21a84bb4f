/** Executions of the state machines, named after their jobs; the jobs of a group have one. Starting one twice is starting it once. */
import {
  DescribeExecutionCommand,
  ExecutionAlreadyExists,
  ExecutionDoesNotExist,
  SFNClient,
  StartExecutionCommand,
  StopExecutionCommand,
} from "@aws-sdk/client-sfn";
import { executionInput, executionName, type Job } from "../domain/job.ts";

/** What an execution is found by. */
export type JobOfExecution = Pick<Job, "id" | "kind" | "group">;

export type ExecutionStatus = "RUNNING" | "SUCCEEDED" | "ENDED_BADLY" | "UNKNOWN";

export interface Executions {
  /** Starts the job's state machine. Started before (running or ended) is success. */
  start(job: Job): Promise<void>;
  /** UNKNOWN: no such execution was ever started. */
  status(job: JobOfExecution): Promise<ExecutionStatus>;
  /** Ended or never started is success. */
  stop(job: JobOfExecution, reason: { error: string; cause: string }): Promise<void>;
}

/** `arnPrefix` is what a state machine's ARN has before the job's kind: `arn:…:stateMachine:Snapferry-`. */
export class StepFunctionsExecutions implements Executions {
  readonly #client = new SFNClient({ maxAttempts: 5 });
  readonly #arnPrefix: string;

  constructor(arnPrefix: string) {
    this.#arnPrefix = arnPrefix;
  }

  async start(job: Job): Promise<void> {
    try {
      await this.#client.send(
        new StartExecutionCommand({
          stateMachineArn: `${this.#arnPrefix}${job.kind}`,
          name: executionName(job),
          input: JSON.stringify(executionInput(job)),
        }),
      );
    } catch (error) {
      if (!(error instanceof ExecutionAlreadyExists)) throw error;
    }
  }

  async status(job: JobOfExecution): Promise<ExecutionStatus> {
    try {
      const { status } = await this.#client.send(
        new DescribeExecutionCommand({ executionArn: this.#executionArn(job) }),
      );
      if (status === "RUNNING" || status === "PENDING_REDRIVE") return "RUNNING";
      return status === "SUCCEEDED" ? "SUCCEEDED" : "ENDED_BADLY";
    } catch (error) {
      if (error instanceof ExecutionDoesNotExist) return "UNKNOWN";
      throw error;
    }
  }

  async stop(job: JobOfExecution, reason: { error: string; cause: string }): Promise<void> {
    try {
      await this.#client.send(new StopExecutionCommand({ executionArn: this.#executionArn(job), ...reason }));
    } catch (error) {
      if (!(error instanceof ExecutionDoesNotExist)) throw error;
    }
  }

  #executionArn(job: JobOfExecution): string {
    return `${this.#arnPrefix.replace(":stateMachine:", ":execution:")}${job.kind}:${executionName(job)}`;
  }
}

/** The job that an execution's ARN (`…:execution:Snapferry-backup-snapshot:job_…`) is named after, or undefined for others. */
export function jobIdOfExecution(executionArn: string): string | undefined {
  const name = executionArn.split(":").at(-1);
  return name?.startsWith("job_") ? name : undefined;
}
