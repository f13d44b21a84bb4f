/**
 * One function with a role and a log group of its own. The role holds what {@link allow} adds to it, writes to that log group
 * alone, and sends traces.
 */
import { type Duration, RemovalPolicy, Stack } from "aws-cdk-lib";
import * as iam from "aws-cdk-lib/aws-iam";
import * as lambda from "aws-cdk-lib/aws-lambda";
import * as logs from "aws-cdk-lib/aws-logs";
import type { Construct } from "constructs";
import type { MountedFileSystem } from "./deployment.ts";
import type { Placement } from "./network.ts";
import { nodeEnvironment } from "./node-environment.ts";
import { acknowledge, allow } from "./permissions.ts";

/** {@link HandlerFunction} */
export interface HandlerFunctionProps {
  readonly description: string;
  /** Names the function, after the stack's name, and its log group. */
  readonly service: string;
  readonly code: lambda.Code;
  readonly timeout: Duration;
  readonly memoryMiB: number;
  /** Undefined: shares the account's concurrency with all others. */
  readonly reservedConcurrency?: number | undefined;
}

export class HandlerFunction extends lambda.Function {
  declare readonly role: iam.IRole;

  constructor(scope: Construct, id: string, props: HandlerFunctionProps) {
    const functionName = `${Stack.of(scope).stackName}-${props.service}`;
    const logGroup = new logs.LogGroup(scope, `${id}Logs`, {
      logGroupName: `/aws/lambda/${functionName}`,
      retention: logs.RetentionDays.ONE_MONTH,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    const role = new iam.Role(scope, `${id}Role`, { assumedBy: new iam.ServicePrincipal("lambda.amazonaws.com") });
    super(scope, id, {
      functionName,
      description: props.description,
      code: props.code,
      handler: "index.handler",
      runtime: lambda.Runtime.NODEJS_24_X,
      architecture: lambda.Architecture.ARM_64,
      timeout: props.timeout,
      memorySize: props.memoryMiB,
      ...(props.reservedConcurrency && { reservedConcurrentExecutions: props.reservedConcurrency }),
      role,
      logGroup,
      loggingFormat: lambda.LoggingFormat.JSON,
      tracing: lambda.Tracing.ACTIVE,
      environment: {
        ...nodeEnvironment,
        POWERTOOLS_SERVICE_NAME: `snapferry-${props.service}`,
        LOG_LEVEL: "INFO",
      },
    });
    allow(role, {
      actions: ["logs:CreateLogStream", "logs:PutLogEvents"],
      resources: [logGroup.logGroupArn],
    });
    acknowledge(role, "AwsSolutions-IAM5[Resource::*]", "X-Ray takes traces without naming a resource.");
  }

  /** Mounts the file system at `path`; the function must run where it can be reached. */
  mount(fileSystem: MountedFileSystem, path: string): void {
    const resource = this.node.defaultChild as lambda.CfnFunction;
    resource.fileSystemConfigs = [{ arn: fileSystem.accessPointArn, localMountPath: path }];
    allow(this.role, {
      actions: ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"],
      resources: [
        Stack.of(this).formatArn({ service: "elasticfilesystem", resource: "file-system", resourceName: "*" }),
      ],
      conditions: { StringEquals: { "elasticfilesystem:AccessPointArn": fileSystem.accessPointArn } },
      wildcardBecause: "The condition narrows it to the file system of the one access point.",
    });
  }

  /** Runs the function in these subnets. */
  runIn({ subnetIds, securityGroupIds }: Placement): void {
    const resource = this.node.defaultChild as lambda.CfnFunction;
    resource.vpcConfig = { subnetIds: [...subnetIds], securityGroupIds: [...securityGroupIds] };
    allow(this.role, {
      actions: [
        "ec2:CreateNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:DeleteNetworkInterface",
        "ec2:AssignPrivateIpAddresses",
        "ec2:UnassignPrivateIpAddresses",
      ],
      resources: ["*"],
      wildcardBecause:
        "Lambda makes and removes the network interfaces of a function, whose ids it does not know before.",
    });
  }
}
