/** The settings: one SSM parameter each below one path, which the functions read live. Context of the same name gives the first value. */
import { Stack } from "aws-cdk-lib";
import * as ssm from "aws-cdk-lib/aws-ssm";
import { Construct } from "constructs";
import { type SettingName, settingDefinitions, settingNames } from "../lambdas/domain/settings.ts";
import type { HandlerFunction } from "./handler-function.ts";
import { allow } from "./permissions.ts";

/** {@link Settings} */
export interface SettingsProps {
  readonly texts: Readonly<Record<SettingName, string>>;
}

export class Settings extends Construct {
  /** `/<stack>/settings`, without a slash at the end. */
  readonly path: string;

  constructor(scope: Construct, id: string, props: SettingsProps) {
    super(scope, id);
    this.path = `/${Stack.of(this).stackName}/settings`;
    for (const name of settingNames)
      new ssm.StringParameter(this, name, {
        parameterName: `${this.path}/${name}`,
        stringValue: props.texts[name],
        description: settingDefinitions[name].description,
      });
  }

  /** Gives `handler` the path and the right to read what is below it. */
  grantRead(handler: HandlerFunction): void {
    const path = Stack.of(this).formatArn({
      service: "ssm",
      resource: "parameter",
      resourceName: this.path.slice(1),
    });
    allow(handler.role, {
      actions: ["ssm:GetParametersByPath"],
      resources: [path, `${path}/*`],
      wildcardBecause: "The settings are read by their path, all in one call.",
    });
    handler.addEnvironment("SETTINGS_PATH", this.path);
  }
}
