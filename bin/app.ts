/** The CDK app: one stack, checked against the AWS Solutions rules of cdk-nag at every synthesis. */
import { App, Validations } from "aws-cdk-lib";
import { AwsSolutionsChecks } from "cdk-nag";
import { readDeployment } from "../lib/deployment.ts";
import { SnapferryStack } from "../lib/snapferry-stack.ts";

const app = new App();
Validations.of(app).addPlugins(new AwsSolutionsChecks(app));
new SnapferryStack(app, readDeployment(app.node));
