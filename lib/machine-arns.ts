/**
 * The ARNs of the state machines, made of their names. Functions start machines and machines call functions: with names, neither
 * has to exist before the other.
 */
import { ArnFormat, Stack } from "aws-cdk-lib";
import type { IConstruct } from "constructs";
import { type JobKind, jobKinds } from "../lambdas/domain/job.ts";

/** A state machine does the jobs of the kind that it is named after; two more look after all of them. */
export const machineNames = [...jobKinds, "collect-garbage", "check-backups"] as const;
export type MachineName = JobKind | "collect-garbage" | "check-backups";

export class MachineArns {
  readonly #stack: Stack;

  constructor(scope: IConstruct) {
    this.#stack = Stack.of(scope);
  }

  /** What an ARN starts with: the name follows. */
  get prefix(): string {
    return this.#arn("stateMachine", `${this.#stack.stackName}-`);
  }

  nameOf(machine: MachineName): string {
    return `${this.#stack.stackName}-${machine}`;
  }

  of(machine: MachineName): string {
    return this.#arn("stateMachine", this.nameOf(machine));
  }

  /** All executions of `machine` that were started from outside. */
  executionsOf(machine: MachineName): string {
    return this.#arn("execution", `${this.nameOf(machine)}:*`);
  }

  /** All executions that Distributed Maps of `machine` start. */
  mapExecutionsOf(machine: MachineName): string {
    return this.#arn("execution", `${this.nameOf(machine)}/*`);
  }

  #arn(resource: string, resourceName: string): string {
    return this.#stack.formatArn({
      service: "states",
      resource,
      resourceName,
      arnFormat: ArnFormat.COLON_RESOURCE_NAME,
    });
  }
}
