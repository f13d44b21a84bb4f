import assert from "node:assert/strict";
import { test } from "node:test";
import { App } from "aws-cdk-lib";
import { type Deployment, readDeployment } from "../../lib/deployment.ts";

function read(context: Record<string, unknown> = {}): Deployment {
  return readDeployment(new App({ context }).node);
}

const keys = { "auth.issuer": "https://id.example.org/", "auth.audience": "snapferry" };

test("without context everything has a default", () => {
  const deployment = read();
  assert.equal(deployment.stackName, "Snapferry");
  assert.equal(deployment.retainData, true);
  assert.equal(deployment.shardConcurrency, 4);
  assert.equal(deployment.copyReservedConcurrency, 16);
  assert.equal(deployment.settings["backup.max.attempts"], "3");
  assert.equal(deployment.authentication, undefined);
  assert.deepEqual(deployment.fileRoots, []);
  assert.deepEqual(deployment.allowedCidrs, []);
});

test("concurrency reserved for copies is slots x shards, a number of one's own, or none", () => {
  assert.equal(read({ "backup.pool.size": "3", "backup.shard.concurrency": "5" }).copyReservedConcurrency, 15);
  assert.equal(read({ "copy.reserved.concurrency": "7" }).copyReservedConcurrency, 7);
  assert.equal(read({ "copy.reserved.concurrency": "none" }).copyReservedConcurrency, undefined);
});

test("values come as text from the command line and as JSON from cdk.json", () => {
  assert.equal(read({ "retain.data": "false" }).retainData, false);
  assert.equal(read({ "retain.data": false }).retainData, false);
  assert.equal(read({ "api.rate": 7 }).apiRate, 7);
  assert.deepEqual(read({ "file.roots": "/srv/a, /srv/b/" }).fileRoots, ["/srv/a", "/srv/b"]);
  assert.deepEqual(read({ "file.roots": ["/srv/a", "/srv/b"] }).fileRoots, ["/srv/a", "/srv/b"]);
  assert.deepEqual(read({ "file.roots": "/" }).fileRoots, ["/"]);
});

test("an empty value is one that was not given", () => {
  assert.equal(read({ "notify.email": "", "backup.pool.size": " " }).notifyEmail, undefined);
});

test("encryption has a key that is made here, one that exists, or none", () => {
  assert.equal(read().encryptionKey, "none");
  assert.equal(read().defaultStoreEncryption, "none");
  const arn = "arn:aws:kms:eu-central-1:111122223333:key/0d3b6a1e-0000-4000-8000-000000000000";
  for (const key of ["create", arn]) {
    const { encryptionKey, defaultStoreEncryption } = read({ "encryption.key": key, "encryption.default": "client" });
    assert.deepEqual([encryptionKey, defaultStoreEncryption], [key, "client"]);
  }
});

test("backup.retry counts the retries after the first attempt", () => {
  assert.equal(read({ "backup.retry": "4" }).settings["backup.max.attempts"], "5");
});

test("keys of bearer tokens come over https, or from this machine", () => {
  for (const url of [
    "https://id.example.org/keys",
    "http://127.0.0.1:4000/keys",
    "http://localhost/keys",
    "http://[::1]:1/",
  ])
    assert.equal(read({ ...keys, "auth.jwksUrl": url }).authentication?.jwksUrl, url);
});

test("keys of the CDK and of others are let be", () => {
  read({ "@aws-cdk/core:newStyleStackSynthesis": true, "hosted-zone:account=1": "x", somebodys: "own" });
});

const vpc = {
  vpcId: "vpc-0123456789abcdef0",
  subnetIds: "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
  securityGroupIds: "sg-0123456789abcdef0",
};
const mounted = {
  "file.efsAccessPointArn": "arn:aws:elasticfilesystem:eu-central-1:111122223333:access-point/fsap-0123456789abcdef0",
  "file.securityGroupIds": "sg-0123456789abcdef1",
};

test("a VPC has endpoints of its own, or gets them with its route tables", () => {
  const ids = { ...vpc, subnetIds: vpc.subnetIds.split(","), securityGroupIds: [vpc.securityGroupIds] };
  assert.equal(read().network, undefined);
  const made = read({ ...vpc, routeTableIds: ["rtb-01234567", "rtb-89abcdef"] }).network;
  assert.deepEqual(made, { ...ids, endpointRouteTableIds: ["rtb-01234567", "rtb-89abcdef"] });
  assert.deepEqual(read({ ...vpc, vpcEndpoints: "none" }).network, { ...ids, endpointRouteTableIds: undefined });
});

test("a file system may be mounted in the subnets of the VPC", () => {
  const subnets = "subnet-0123456789abcdef1, subnet-0123456789abcdef0";
  const deployment = read({ ...vpc, vpcEndpoints: "none", ...mounted, "file.subnetIds": subnets });
  assert.equal(deployment.fileSystem?.subnetIds.length, 2);
});

const wrong: readonly [Record<string, unknown>, RegExp][] = [
  [{ "backup.retries": "2" }, /^context backup\.retries is not known; there are .*backup\.retry,/],
  [{ "stack.name": "1st" }, /^context stack\.name must start with a letter .*not "1st"$/],
  [{ "stack.name": "a".repeat(51) }, /^context stack\.name must .* at most 50 /],
  [{ "backup.retry": "-1" }, /^backup\.retry must be a whole number from 0 to 19, not "-1"$/],
  [
    { "backup.retry": "1", "backup.max.attempts": "3" },
    /^backup\.retry \(1\) and backup\.max\.attempts \(3\) contradict .*give one/,
  ],
  [{ "backup.pool.size": "0" }, /^backup\.pool\.size must be a whole number from 1 to 1000, not "0"$/],
  [{ "backup.on.failure": "hide" }, /^backup\.on\.failure must be delete or keep, not "hide"$/],
  [
    { "backup.shard.concurrency": "0" },
    /^context backup\.shard\.concurrency must be a whole number from 1 to 100, not "0"$/,
  ],
  [{ "copy.reserved.concurrency": "all" }, /^context copy\.reserved\.concurrency must be a whole number .*not "all"$/],
  [{ "retain.data": "yes" }, /^context retain\.data must be true or false, not "yes"$/],
  [{ "kms.key.arn": "alias/mine" }, /^context kms\.key\.arn must be a key's ARN, not "alias\/mine"$/],
  [
    { "encryption.key": "alias/mine" },
    /^context encryption\.key must be none, create or a key's ARN, not "alias\/mine"$/,
  ],
  [{ "encryption.default": "all" }, /^context encryption\.default must be none or client, not "all"$/],
  [{ "encryption.default": "client" }, /^context encryption\.default=client needs a key: give encryption\.key=create/],
  [
    { "encryption.kye": "none" },
    /^context encryption\.kye is not known; there are encryption\.default, encryption\.key$/,
  ],
  [{ "notify.email": "me" }, /^context notify\.email must be an e-mail address, not "me"$/],
  [{ "alarm.email": "a b@c" }, /^context alarm\.email must be an e-mail address/],
  [{ "api.rate": "1.5" }, /^context api\.rate must be a whole number from 1 to 10000, not "1\.5"$/],
  [{ "api.burst": { no: 1 } }, /^context api\.burst must be a text, not a JSON object$/],
  [
    { "auth.issuer": "https://id.example.org/" },
    /^context auth\.issuer, auth\.audience and auth\.jwksUrl belong together; give all three/,
  ],
  [{ ...keys, "auth.jwksUrl": "http://id.example.org/keys" }, /^context auth\.jwksUrl must be an https:\/\/ address/],
  [
    { ...keys, "auth.jwksUrl": "http://localhost.example.org/" },
    /^context auth\.jwksUrl must be an https:\/\/ address/,
  ],
  [{ ...keys, "auth.jwksUrl": "keys" }, /^context auth\.jwksUrl must be an https:\/\/ address, not "keys"$/],
  [
    { "endpoints.allowed.cidrs": "10.0.0.0/8,10.0.0.1" },
    /^context endpoints\.allowed\.cidrs must list .*"10\.0\.0\.1" is none$/,
  ],
  [{ "endpoints.allowed.cidrs": "10.0.0.0/33" }, /"10\.0\.0\.0\/33" is none$/],
  [{ "endpoints.allowed.cidrs": "fd00::/129" }, /"fd00::\/129" is none$/],
  [{ "file.roots": "volumes" }, /^context file\.roots must list absolute directories .*"volumes" is none$/],
  [{ "file.roots": "/srv/../etc" }, /"\/srv\/\.\.\/etc" is none$/],
  [
    { "file.subnetIds": "subnet-1" },
    /^context file\.efsAccessPointArn, file\.subnetIds and file\.securityGroupIds belong together/,
  ],
  [
    { "file.efsAccessPointArn": "fsap-1", "file.subnetIds": "subnet-1", "file.securityGroupIds": "sg-1" },
    /^context file\.efsAccessPointArn must be an access point's ARN, not "fsap-1"$/,
  ],
  [{ vpcId: vpc.vpcId }, /^context vpcId, subnetIds and securityGroupIds belong together; give all three, or none/],
  [{ subnetIds: vpc.subnetIds }, /^context vpcId, subnetIds and securityGroupIds belong together/],
  [{ vpcEndpoints: "none" }, /^context vpcEndpoints and routeTableIds mean nothing without vpcId/],
  [{ routeTableIds: "rtb-01234567" }, /^context vpcEndpoints and routeTableIds mean nothing without vpcId/],
  [{ ...vpc }, /^context routeTableIds must list the route tables of the subnets: .*vpcEndpoints=none/],
  [{ ...vpc, vpcId: "mine" }, /^context vpcId must be a VPC's id, not "mine"$/],
  [{ ...vpc, subnetIds: "subnet-01234567,b" }, /^context subnetIds must be a list of subnets' ids, not "b"$/],
  [{ ...vpc, securityGroupIds: "b" }, /^context securityGroupIds must be a list of security groups' ids, not "b"$/],
  [{ ...vpc, routeTableIds: "b" }, /^context routeTableIds must be a list of route tables' ids, not "b"$/],
  [{ ...vpc, vpcEndpoints: "some" }, /^context vpcEndpoints must be create or none, not "some"$/],
  [
    { ...vpc, vpcEndpoints: "none", routeTableIds: "rtb-01234567" },
    /^context routeTableIds means nothing with vpcEndpoints=none/,
  ],
  [
    { ...vpc, vpcEndpoints: "none", ...mounted, "file.subnetIds": "subnet-0123456789abcdef9" },
    /^context file\.subnetIds and subnetIds must be the same/,
  ],
];

for (const [context, sentence] of wrong)
  test(`${JSON.stringify(context)} is refused with a sentence that names the key`, () => {
    assert.throws(() => read(context), { message: sentence });
  });
