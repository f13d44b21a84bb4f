/**
 * Grants one by one. A resource with a wildcard must say why it has one; the reason is recorded for the check that looks for
 * wildcards (cdk-nag's AwsSolutions-IAM5).
 */
import { Stack, Validations } from "aws-cdk-lib";
import type { IRole } from "aws-cdk-lib/aws-iam";
import * as iam from "aws-cdk-lib/aws-iam";
import type { IConstruct } from "constructs";

/** What a role may do. */
export interface Permission {
  readonly actions: readonly string[];
  readonly resources: readonly string[];
  readonly conditions?: Record<string, Record<string, string>>;
  /** Why a resource has a wildcard, where one has. */
  readonly wildcardBecause?: string;
}

/** Adds `permission` to `role`. Throws when a resource has a wildcard that nothing explains. */
export function allow(role: IRole, permission: Permission): void {
  role.addToPrincipalPolicy(
    new iam.PolicyStatement({
      actions: [...permission.actions],
      resources: [...permission.resources],
      ...(permission.conditions && { conditions: permission.conditions }),
    }),
  );
  for (const resource of permission.resources) {
    const written = writtenOut(Stack.of(role).resolve(resource));
    if (!written.includes("*")) continue;
    if (permission.wildcardBecause === undefined)
      throw new Error(`${role.node.path}: ${written} has a wildcard without a reason`);
    acknowledge(role, `AwsSolutions-IAM5[Resource::${written}]`, permission.wildcardBecause);
  }
}

/** Lets `construct` and what is in it break the rule `id` of cdk-nag, for a reason. */
export function acknowledge(construct: IConstruct, id: string, reason: string): void {
  Validations.of(construct).acknowledge({ id, reason });
}

/** A CloudFormation expression as cdk-nag writes it: `<LogicalId.Arn>/*`. */
function writtenOut(value: unknown): string {
  if (typeof value === "string") return value;
  const [[name, argument] = ["", undefined]] = Object.entries(value as Record<string, unknown>);
  if (name === "Fn::Join") {
    const [delimiter, parts] = argument as [string, unknown[]];
    return parts.map(writtenOut).join(delimiter);
  }
  if (name === "Fn::GetAtt") return `<${(argument as string[]).join(".")}>`;
  if (name === "Ref") return `<${argument}>`;
  return JSON.stringify(value);
}
