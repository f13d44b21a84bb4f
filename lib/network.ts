/**
 * Endpoints of the AWS services that functions in a VPC call, so that these need no way to the Internet. Functions that are called by
 * streams, rules and the API for backups alone stay outside of the VPC, and logs and traces are sent by Lambda itself.
 */
import { Stack } from "aws-cdk-lib";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import { Construct } from "constructs";
import type { Deployment, Network } from "./deployment.ts";

/** Where functions run. */
export interface Placement {
  readonly subnetIds: readonly string[];
  readonly securityGroupIds: readonly string[];
}

/** Where the functions run that reach hypervisors and stores; undefined: outside of any VPC. A file system and hosts share one place. */
export function placementOf({
  network,
  fileSystem,
}: Pick<Deployment, "network" | "fileSystem">): Placement | undefined {
  const { subnetIds } = network ?? fileSystem ?? {};
  if (subnetIds === undefined) return undefined;
  const groups = [network, fileSystem].flatMap((one) => one?.securityGroupIds ?? []);
  return { subnetIds, securityGroupIds: [...new Set(groups)] };
}

/** They stand in route tables, and cost nothing. */
const gatewayServices = ["s3", "dynamodb"] as const;
/** They have an address in each subnet, and are paid by the hour: Step Functions, settings, secrets, and the import's function. */
const interfaceServices = ["states", "ssm", "secretsmanager", "lambda"] as const;

/** {@link VpcEndpoints} */
export interface VpcEndpointsProps {
  readonly network: Network;
  /** Route tables of the subnets. */
  readonly routeTableIds: readonly string[];
  /** Whether the functions call KMS: where backups are encrypted before the store. */
  readonly usesKms: boolean;
}

export class VpcEndpoints extends Construct {
  constructor(scope: Construct, id: string, { network, routeTableIds, usesKms }: VpcEndpointsProps) {
    super(scope, id);
    const { vpcId } = network;
    const group = new ec2.CfnSecurityGroup(this, "Group", {
      groupDescription: `HTTPS from the functions of ${Stack.of(this).stackName} to endpoints of AWS services`,
      vpcId,
      securityGroupIngress: network.securityGroupIds.map((sourceSecurityGroupId) => ({
        ipProtocol: "tcp",
        fromPort: 443,
        toPort: 443,
        sourceSecurityGroupId,
        description: "Functions",
      })),
    });
    for (const service of gatewayServices)
      new ec2.CfnVPCEndpoint(this, service, {
        vpcEndpointType: "Gateway",
        serviceName: this.#serviceName(service),
        vpcId,
        routeTableIds: [...routeTableIds],
      });
    for (const service of [...interfaceServices, ...(usesKms ? ["kms"] : [])])
      new ec2.CfnVPCEndpoint(this, service, {
        vpcEndpointType: "Interface",
        serviceName: this.#serviceName(service),
        vpcId,
        subnetIds: [...network.subnetIds],
        securityGroupIds: [group.attrGroupId],
        privateDnsEnabled: true,
      });
  }

  #serviceName(service: string): string {
    return `com.amazonaws.${Stack.of(this).region}.${service}`;
  }
}
