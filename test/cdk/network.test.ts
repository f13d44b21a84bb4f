import assert from "node:assert/strict";
import { test } from "node:test";
import { type FunctionName, functionFiles } from "../../lib/functions.ts";
import { bundledCode, clientsIn } from "./bundled-code.ts";
import { allowing, functionRoles, resource, resourcesOf, statementsOf, templateWith, written } from "./synthesised.ts";

const vpc = {
  vpcId: "vpc-0123456789abcdef0",
  subnetIds: "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
  securityGroupIds: "sg-0123456789abcdef0",
};
const withEndpoints = templateWith({ ...vpc, routeTableIds: "rtb-01234567" });
const names = Object.keys(functionFiles) as FunctionName[];

function inVpc(of: ReturnType<typeof templateWith>): FunctionName[] {
  return names.filter((name) => name !== "keys" && functionIn(of, name).VpcConfig !== undefined);
}

function functionIn(of: ReturnType<typeof templateWith>, name: FunctionName) {
  return resource(of, "AWS::Lambda::Function", `Functions${name.replace(/^./, (letter) => letter.toUpperCase())}`)
    .Properties;
}

/** The services that have an endpoint, by the last part of their names. */
function endpointsOf(of: ReturnType<typeof templateWith>, type: "Gateway" | "Interface"): string[] {
  return Object.values(resourcesOf(of, "AWS::EC2::VPCEndpoint"))
    .filter(({ Properties }) => Properties.VpcEndpointType === type)
    .map(({ Properties }) => written(Properties.ServiceName).replace("com.amazonaws.<AWS::Region>.", ""))
    .sort();
}

test("without a VPC no function runs in one, and there are no endpoints", () => {
  const without = templateWith();
  assert.deepEqual(inVpc(without), []);
  for (const type of ["AWS::EC2::VPCEndpoint", "AWS::EC2::SecurityGroup"])
    assert.deepEqual(resourcesOf(without, type), {});
});

test("the functions that reach hypervisors and stores run in the VPC, and no others", () => {
  assert.deepEqual(inVpc(withEndpoints), ["inventory", "tasks", "copy", "collect", "import"]);
  for (const name of inVpc(withEndpoints))
    assert.deepEqual(functionIn(withEndpoints, name).VpcConfig, {
      SubnetIds: vpc.subnetIds.split(","),
      SecurityGroupIds: [vpc.securityGroupIds],
    });
});

const authentication = {
  "auth.issuer": "https://id.example.org/",
  "auth.audience": "snapferry",
  "auth.jwksUrl": "https://id.example.org/keys",
};

test("a function outside of the VPC fetches the issuer's keys for the one inside, and may do nothing else", () => {
  const told = templateWith({ ...vpc, ...authentication, vpcEndpoints: "none" });
  const variables = (name: FunctionName) =>
    (functionIn(told, name).Environment as { Variables: Record<string, unknown> }).Variables;
  assert.equal(functionIn(told, "keys").VpcConfig, undefined);
  assert.equal(variables("keys").AUTH_JWKS_URL, "https://id.example.org/keys");
  assert.match(written(variables("inventory").AUTH_KEYS_FUNCTION), /^<FunctionsKeys[0-9A-F]{8}>$/);
  const called = allowing(statementsOf(told, functionRoles.inventory), /^lambda:/).flatMap(
    ({ resources }) => resources,
  );
  assert.match(called.join(), /<FunctionsKeys[0-9A-F]{8}\.Arn>/);
  const actions = statementsOf(told, functionRoles.keys).flatMap((statement) => statement.actions);
  assert.ok(
    actions.every((action) => /^(logs|xray):/.test(action)),
    actions.join(),
  );
});

test("without a VPC each function of the API fetches the keys itself", () => {
  const told = templateWith(authentication);
  assert.ok(!("AUTH_KEYS_FUNCTION" in (functionIn(told, "inventory").Environment as { Variables: object }).Variables));
  assert.equal(
    Object.keys(resourcesOf(told, "AWS::Lambda::Function")).some((id) => id.startsWith("FunctionsKeys")),
    false,
  );
});

/** The names of services in endpoints, by those of the SDK's clients. */
const serviceNames: Readonly<Record<string, string>> = {
  dynamodb: "dynamodb",
  kms: "kms",
  lambda: "lambda",
  s3: "s3",
  "secrets-manager": "secretsmanager",
  sfn: "states",
  ssm: "ssm",
};

test("there is an endpoint for each service that their code calls, and for no other", () => {
  const clients = new Set(inVpc(withEndpoints).flatMap((name) => clientsIn(bundledCode(functionFiles[name]))));
  const called = [...clients].map((client) => serviceNames[client] ?? `${client}, which has no name here`).sort();
  const encrypted = templateWith({ ...vpc, routeTableIds: "rtb-01234567", "encryption.key": "create" });
  const made = [...endpointsOf(encrypted, "Gateway"), ...endpointsOf(encrypted, "Interface")].sort();
  assert.deepEqual(made, called);
  assert.deepEqual(endpointsOf(withEndpoints, "Gateway"), ["dynamodb", "s3"]);
  assert.deepEqual(endpointsOf(withEndpoints, "Interface"), ["lambda", "secretsmanager", "ssm", "states"]);
});

test("endpoints take HTTPS from the functions' groups alone, under the services' usual names", () => {
  const [group] = Object.values(resourcesOf(withEndpoints, "AWS::EC2::SecurityGroup"));
  assert.deepEqual(group?.Properties.SecurityGroupIngress, [
    {
      IpProtocol: "tcp",
      FromPort: 443,
      ToPort: 443,
      SourceSecurityGroupId: vpc.securityGroupIds,
      Description: "Functions",
    },
  ]);
  for (const { Properties } of Object.values(resourcesOf(withEndpoints, "AWS::EC2::VPCEndpoint"))) {
    assert.equal(Properties.VpcId, vpc.vpcId);
    if (Properties.VpcEndpointType === "Gateway") {
      assert.deepEqual(Properties.RouteTableIds, ["rtb-01234567"]);
      continue;
    }
    assert.equal(Properties.PrivateDnsEnabled, true);
    assert.deepEqual(Properties.SubnetIds, vpc.subnetIds.split(","));
    assert.match(
      String((Properties.SecurityGroupIds as unknown[]).map(written)),
      /^<NetworkGroup[0-9A-F]{8}\.GroupId>$/,
    );
  }
});

test("a VPC that has endpoints gets none", () => {
  const without = templateWith({ ...vpc, vpcEndpoints: "none" });
  assert.deepEqual(resourcesOf(without, "AWS::EC2::VPCEndpoint"), {});
  assert.equal(inVpc(without).length, 5);
});

test("a file system is mounted in the same place, with its own groups besides", () => {
  const accessPoint = "arn:aws:elasticfilesystem:eu-central-1:111122223333:access-point/fsap-0123456789abcdef0";
  const both = templateWith({
    ...vpc,
    vpcEndpoints: "none",
    "file.efsAccessPointArn": accessPoint,
    "file.subnetIds": vpc.subnetIds,
    "file.securityGroupIds": "sg-0123456789abcdef1,sg-0123456789abcdef0",
  });
  const { VpcConfig, FileSystemConfigs } = functionIn(both, "copy");
  assert.deepEqual(FileSystemConfigs, [{ Arn: accessPoint, LocalMountPath: "/mnt/volumes" }]);
  assert.deepEqual(VpcConfig, {
    SubnetIds: vpc.subnetIds.split(","),
    SecurityGroupIds: ["sg-0123456789abcdef0", "sg-0123456789abcdef1"],
  });
});
