/** The stack as the tests see it: synthesised with the flags of cdk.json and without bundling the functions. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { App } from "aws-cdk-lib";
import { Template } from "aws-cdk-lib/assertions";
import { readDeployment } from "../../lib/deployment.ts";
import { SnapferryStack } from "../../lib/snapferry-stack.ts";

const cdkJson = JSON.parse(readFileSync(new URL("../../cdk.json", import.meta.url), "utf8"));

const assemblies = mkdtempSync(join(tmpdir(), "snapferry-cdk-"));
process.on("exit", () => rmSync(assemblies, { recursive: true, force: true }));

export interface Resource {
  readonly Type: string;
  readonly DeletionPolicy?: string;
  readonly UpdateReplacePolicy?: string;
  readonly Properties: Readonly<Record<string, unknown>>;
}

export interface Statement {
  readonly actions: readonly string[];
  /** Written out: `<LogicalId.Arn>/*`. */
  readonly resources: readonly string[];
}

/** `validated`: CloudFormation's rules are checked, which takes a second and throws. */
export function stackWith(
  context: Readonly<Record<string, unknown>> = {},
  options = { validated: false },
): SnapferryStack {
  const app = new App({
    outdir: mkdtempSync(join(assemblies, "assembly-")),
    context: {
      ...cdkJson.context,
      "@aws-cdk/core:annotationsInValidationReport": false,
      "aws:cdk:bundling-stacks": [],
      ...context,
    },
    builtinCloudFormationValidation: options.validated,
  });
  return new SnapferryStack(app, readDeployment(app.node));
}

export function templateWith(context: Readonly<Record<string, unknown>> = {}): Template {
  return Template.fromStack(stackWith(context));
}

/** All resources of a type by logical id. */
export function resourcesOf(template: Template, type: string): Readonly<Record<string, Resource>> {
  return template.findResources(type) as Record<string, Resource>;
}

/** The one resource of a type whose logical id begins so. */
export function resource(template: Template, type: string, idPrefix: string): Resource {
  const found = Object.entries(resourcesOf(template, type)).filter(([id]) =>
    new RegExp(`^${idPrefix}[0-9A-F]{8}$`).test(id),
  );
  if (found.length !== 1) throw new Error(`${found.length} resources ${type} ${idPrefix}`);
  return found[0]![1];
}

/** A CloudFormation expression as one text: `<LogicalId.Arn>/*`. */
export function written(value: unknown): string {
  if (typeof value !== "object" || value === null) return String(value);
  const [[name, argument] = ["", undefined]] = Object.entries(value);
  if (name === "Fn::Join") return (argument as [string, unknown[]])[1].map(written).join((argument as [string])[0]);
  if (name === "Fn::GetAtt") return `<${(argument as string[]).join(".")}>`;
  if (name === "Ref") return `<${argument}>`;
  return JSON.stringify(value);
}

interface PolicyDocument {
  readonly PolicyDocument: {
    readonly Statement: readonly { readonly Action: string | string[]; readonly Resource: unknown }[];
  };
}

/** What the role whose logical id begins so is allowed by its own policies. */
export function statementsOf(template: Template, rolePrefix: string): Statement[] {
  return Object.values(resourcesOf(template, "AWS::IAM::Policy"))
    .filter(({ Properties }) =>
      (Properties.Roles as unknown[]).some((role) => written(role).startsWith(`<${rolePrefix}`)),
    )
    .flatMap(({ Properties }) => (Properties as unknown as PolicyDocument).PolicyDocument.Statement)
    .map(({ Action, Resource }) => ({ actions: [Action].flat(), resources: [Resource].flat().map(written) }));
}

/** Statements with an action that matches. */
export function allowing(statements: readonly Statement[], action: RegExp): Statement[] {
  return statements.filter(({ actions }) => actions.some((name) => action.test(name)));
}

export const functionRoles = {
  api: "FunctionsApiRole",
  inventory: "FunctionsInventoryRole",
  keys: "FunctionsKeysRole",
  tasks: "FunctionsTasksRole",
  copy: "FunctionsCopyRole",
  collect: "FunctionsCollectRole",
  dispatch: "FunctionsDispatchRole",
  publish: "FunctionsPublishRole",
  import: "FunctionsImportRole",
  reconcile: "FunctionsReconcileRole",
} as const;
