/**
 * What whoever deploys decides: the values of CDK context (`cdk deploy -c key=value`, or `context` in cdk.json), each checked
 * before anything is synthesised. Plain `cdk deploy` needs none of them.
 */
import { isIP } from "node:net";
import { posix } from "node:path";
import type { Node } from "constructs";
import { type StoreEncryption, storeEncryptions } from "../lambdas/domain/inventory.ts";
import { type SettingName, settingNames, settingTexts } from "../lambdas/domain/settings.ts";

/** A context value that cannot work. The message names the key and what to give instead. */
export class InvalidContext extends Error {
  override readonly name = "InvalidContext";
}

/** The context keys besides the settings of `lambdas/domain/settings.ts`, with what they mean. */
export const contextKeys = {
  "stack.name": "Name of the stack, and the prefix of everything named after it. Default Snapferry.",
  "backup.retry": "Alias of backup.max.attempts that counts the retries after the first attempt.",
  "backup.shard.concurrency": "Shards of one backup or restore that are copied at once. Default 4.",
  "copy.reserved.concurrency":
    "Concurrency reserved for the copy function; `none` reserves nothing. Default backup.pool.size x backup.shard.concurrency.",
  "check.interval.hours":
    "Hours between two runs of the check that reads a sample of every backup back, from 1 to 168. Default 24.",
  "retain.data": "Whether tables and bucket survive the deletion of the stack. Default true.",
  "kms.key.arn": "ARN of the KMS key that encrypts the backup bucket. Default: a key that S3 manages.",
  "encryption.key":
    "KMS key for stores with client-side encryption: `none`, `create`, or the ARN of a key. Default none.",
  "encryption.default": "Encryption of the default store: `none` or `client`. Default none.",
  "auth.issuer": "The `iss` that bearer tokens must carry.",
  "auth.audience": "The `aud` that bearer tokens must carry.",
  "auth.jwksUrl": "HTTPS address of the keys that bearer tokens are signed with.",
  "endpoints.allowed.cidrs":
    "Comma-separated private address ranges that endpoints of stores and hypervisors may lie in. Default none.",
  "file.roots":
    "Comma-separated absolute directories that hypervisors of kind `file` may lie in; `{tenant}` in one stands for the tenant that registers. Default none.",
  "file.efsAccessPointArn":
    "ARN of an EFS access point to mount at /mnt/volumes, with file.subnetIds and file.securityGroupIds.",
  "file.subnetIds":
    "Comma-separated subnets from which the EFS access point, S3 and the other AWS services are reachable.",
  "file.securityGroupIds": "Comma-separated security groups for the functions that mount the EFS access point.",
  vpcId:
    "VPC in which the functions run that reach hypervisors and stores, with subnetIds and securityGroupIds. Default none.",
  subnetIds: "Comma-separated subnets of the VPC, of different zones, from which the hypervisors can be reached.",
  securityGroupIds: "Comma-separated security groups for the functions in the VPC.",
  vpcEndpoints:
    "Whether endpoints of the AWS services that these functions call are made in the VPC: `create`, or `none` where it has them or a NAT gateway. Default create.",
  routeTableIds: "Comma-separated route tables of the subnets, for the endpoints of S3 and DynamoDB that are made.",
  "notify.email":
    "Address that is told when a snapshot exists on primary storage and when its backup has ended, well or badly.",
  "alarm.email": "Address that is told of alarms.",
  "api.rate": "Requests a second that the API takes. Default 50.",
  "api.burst": "Requests at once that the API takes. Default 100.",
} as const;

type ContextKey = keyof typeof contextKeys | SettingName;

/** Who may call the API. */
export interface Authentication {
  readonly issuer: string;
  readonly audience: string;
  readonly jwksUrl: string;
}

/** A file system for hypervisors of kind `file`. */
export interface MountedFileSystem {
  readonly accessPointArn: string;
  readonly subnetIds: readonly string[];
  readonly securityGroupIds: readonly string[];
}

/** A VPC from which hypervisors are reached. */
export interface Network {
  readonly vpcId: string;
  readonly subnetIds: readonly string[];
  readonly securityGroupIds: readonly string[];
  /** Route tables of the subnets, where endpoints of AWS services are to be made; undefined: the VPC has them. */
  readonly endpointRouteTableIds: readonly string[] | undefined;
}

/** The checked context. */
export interface Deployment {
  readonly stackName: string;
  readonly settings: Readonly<Record<SettingName, string>>;
  readonly shardConcurrency: number;
  /** Undefined: nothing is reserved. */
  readonly copyReservedConcurrency: number | undefined;
  readonly checkIntervalHours: number;
  readonly retainData: boolean;
  readonly kmsKeyArn: string | undefined;
  /** `none`, `create`, or a key's ARN. */
  readonly encryptionKey: string;
  readonly defaultStoreEncryption: StoreEncryption;
  /** Undefined: the API lets nobody in. */
  readonly authentication: Authentication | undefined;
  readonly allowedCidrs: readonly string[];
  readonly fileRoots: readonly string[];
  readonly fileSystem: MountedFileSystem | undefined;
  /** Undefined: no function runs in a VPC but for the file system's sake. */
  readonly network: Network | undefined;
  readonly notifyEmail: string | undefined;
  readonly alarmEmail: string | undefined;
  readonly apiRate: number;
  readonly apiBurst: number;
}

/** Reads and checks all context of the app. Throws {@link InvalidContext} or InvalidSetting. */
export function readDeployment(node: Node): Deployment {
  const given: Record<string, unknown> = node.getAllContext();
  refuseUnknownKeys(Object.keys(given));
  const text = (key: ContextKey) => textOf(key, given[key]);
  const settings = settingTexts((name) => text(name as ContextKey));
  const vpc = network({
    vpcId: text("vpcId"),
    subnetIds: list(text("subnetIds")),
    securityGroupIds: list(text("securityGroupIds")),
    vpcEndpoints: text("vpcEndpoints"),
    routeTableIds: list(text("routeTableIds")),
  });
  const shardConcurrency = wholeNumber("backup.shard.concurrency", text("backup.shard.concurrency") ?? "4", 1, 100);
  return {
    stackName: stackName(text("stack.name") ?? "Snapferry"),
    settings,
    shardConcurrency,
    copyReservedConcurrency: reservedConcurrency(
      text("copy.reserved.concurrency") ?? String(Number(settings["backup.pool.size"]) * shardConcurrency),
    ),
    checkIntervalHours: wholeNumber("check.interval.hours", text("check.interval.hours") ?? "24", 1, 168),
    retainData: yesOrNo("retain.data", text("retain.data") ?? "true"),
    kmsKeyArn: matching("kms.key.arn", text("kms.key.arn"), keyArn, "a key's ARN"),
    ...storeEncryption(text("encryption.key") ?? "none", text("encryption.default") ?? "none"),
    authentication: authentication(text("auth.issuer"), text("auth.audience"), text("auth.jwksUrl")),
    allowedCidrs: list(text("endpoints.allowed.cidrs")).map(cidr),
    fileRoots: list(text("file.roots")).map(fileRoot),
    fileSystem: inTheSamePlace(
      vpc,
      fileSystem(text("file.efsAccessPointArn"), list(text("file.subnetIds")), list(text("file.securityGroupIds"))),
    ),
    network: vpc,
    notifyEmail: matching("notify.email", text("notify.email"), emailAddress, "an e-mail address"),
    alarmEmail: matching("alarm.email", text("alarm.email"), emailAddress, "an e-mail address"),
    apiRate: wholeNumber("api.rate", text("api.rate") ?? "50", 1, 10_000),
    apiBurst: wholeNumber("api.burst", text("api.burst") ?? "100", 1, 5_000),
  };
}

const emailAddress = /^[^@\s]+@[^@\s]+$/;
const keyArn = /^arn:[\w-]+:kms:[\w-]+:\d{12}:key\/[\w-]+$/;

const knownKeys: ReadonlySet<string> = new Set([...Object.keys(contextKeys), ...settingNames]);
/** Keys without a dot are in none: all sorts of keys have no dot. */
const namespaces: ReadonlySet<string> = new Set(
  [...knownKeys].map(namespaceOf).filter((namespace) => namespace !== ""),
);

function namespaceOf(key: string): string {
  return key.slice(0, Math.max(0, key.indexOf(".")));
}

/** A misspelt key would leave its default in force without a word. Keys of the CDK and of others start otherwise. */
function refuseUnknownKeys(keys: readonly string[]): void {
  for (const key of keys) {
    if (knownKeys.has(key) || !namespaces.has(namespaceOf(key))) continue;
    const siblings = [...knownKeys].filter((known) => namespaceOf(known) === namespaceOf(key));
    throw new InvalidContext(`context ${key} is not known; there are ${siblings.sort().join(", ")}`);
  }
}

/** Context comes as text from the command line and as any JSON from cdk.json. Empty means not given. */
function textOf(key: string, value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (Array.isArray(value)) return value.map((item) => textOf(key, item)).join(",") || undefined;
  if (typeof value === "object") throw new InvalidContext(`context ${key} must be a text, not a JSON object`);
  return String(value).trim() || undefined;
}

function list(text: string | undefined): string[] {
  return (text ?? "")
    .split(",")
    .map((item) => item.trim())
    .filter((item) => item !== "");
}

function wholeNumber(key: ContextKey, text: string, minimum: number, maximum: number): number {
  const value = Number(text);
  if (/^\d{1,9}$/.test(text) && value >= minimum && value <= maximum) return value;
  throw new InvalidContext(`context ${key} must be a whole number from ${minimum} to ${maximum}, not "${text}"`);
}

function yesOrNo(key: ContextKey, text: string): boolean {
  if (text === "true" || text === "false") return text === "true";
  throw new InvalidContext(`context ${key} must be true or false, not "${text}"`);
}

function matching(key: ContextKey, text: string | undefined, pattern: RegExp, what: string): string | undefined {
  if (text === undefined || pattern.test(text)) return text;
  throw new InvalidContext(`context ${key} must be ${what}, not "${text}"`);
}

function storeEncryption(
  encryptionKey: string,
  ofDefault: string,
): Pick<Deployment, "encryptionKey" | "defaultStoreEncryption"> {
  if (encryptionKey !== "none" && encryptionKey !== "create")
    matching("encryption.key", encryptionKey, keyArn, "none, create or a key's ARN");
  const defaultStoreEncryption = storeEncryptions.find((one) => one === ofDefault);
  if (defaultStoreEncryption === undefined)
    throw new InvalidContext(`context encryption.default must be ${storeEncryptions.join(" or ")}, not "${ofDefault}"`);
  if (defaultStoreEncryption === "client" && encryptionKey === "none")
    throw new InvalidContext(
      "context encryption.default=client needs a key: give encryption.key=create or the ARN of a KMS key as well",
    );
  return { encryptionKey, defaultStoreEncryption };
}

/** 50 characters leave room for the longest names made of it: those of functions, of at most 64. */
function stackName(text: string): string {
  if (/^[A-Za-z][A-Za-z0-9-]{0,49}$/.test(text)) return text;
  throw new InvalidContext(
    `context stack.name must start with a letter and have at most 50 letters, digits and hyphens, not "${text}"`,
  );
}

function reservedConcurrency(text: string): number | undefined {
  return text === "none" ? undefined : wholeNumber("copy.reserved.concurrency", text, 1, 100_000);
}

function authentication(
  issuer: string | undefined,
  audience: string | undefined,
  jwksUrl: string | undefined,
): Authentication | undefined {
  if (issuer === undefined && audience === undefined && jwksUrl === undefined) return undefined;
  if (issuer === undefined || audience === undefined || jwksUrl === undefined) {
    throw new InvalidContext(
      "context auth.issuer, auth.audience and auth.jwksUrl belong together; give all three, or none of them for an API that lets nobody in",
    );
  }
  return { issuer, audience, jwksUrl: keysUrl(jwksUrl) };
}

const loopbackHosts: ReadonlySet<string> = new Set(["localhost", "127.0.0.1", "[::1]"]);

/** Keys that come over a connection anybody can change would let anybody in. */
function keysUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol === "https:" || (url?.protocol === "http:" && loopbackHosts.has(url.hostname))) return text;
  throw new InvalidContext(`context auth.jwksUrl must be an https:// address, not "${text}"`);
}

function cidr(text: string): string {
  const [address = "", prefix = "", ...rest] = text.split("/");
  const bits = { 0: -1, 4: 32, 6: 128 }[isIP(address)] ?? -1;
  if (rest.length === 0 && /^\d{1,3}$/.test(prefix) && Number(prefix) <= bits) return text;
  throw new InvalidContext(
    `context endpoints.allowed.cidrs must list address ranges such as 10.0.0.0/8, separated by commas; "${text}" is none`,
  );
}

function fileRoot(text: string): string {
  const withoutSlash = text.replace(/(?<=.)\/$/, "");
  if (posix.isAbsolute(text) && posix.normalize(withoutSlash) === withoutSlash) return withoutSlash;
  throw new InvalidContext(
    `context file.roots must list absolute directories without . or .., separated by commas; "${text}" is none`,
  );
}

function fileSystem(
  accessPointArn: string | undefined,
  subnetIds: readonly string[],
  securityGroupIds: readonly string[],
): MountedFileSystem | undefined {
  if (accessPointArn === undefined && subnetIds.length === 0 && securityGroupIds.length === 0) return undefined;
  if (accessPointArn === undefined || subnetIds.length === 0 || securityGroupIds.length === 0) {
    throw new InvalidContext(
      "context file.efsAccessPointArn, file.subnetIds and file.securityGroupIds belong together; give all three or none of them",
    );
  }
  const arn = /^arn:[\w-]+:elasticfilesystem:[\w-]+:\d{12}:access-point\/fsap-[0-9a-f]+$/;
  matching("file.efsAccessPointArn", accessPointArn, arn, "an access point's ARN");
  return { accessPointArn, subnetIds, securityGroupIds };
}

interface GivenNetwork {
  readonly vpcId: string | undefined;
  readonly subnetIds: readonly string[];
  readonly securityGroupIds: readonly string[];
  readonly vpcEndpoints: string | undefined;
  readonly routeTableIds: readonly string[];
}

function network({ vpcId, subnetIds, securityGroupIds, ...given }: GivenNetwork): Network | undefined {
  if (vpcId === undefined && subnetIds.length === 0 && securityGroupIds.length === 0) {
    if (given.vpcEndpoints === undefined && given.routeTableIds.length === 0) return undefined;
    throw new InvalidContext(
      "context vpcEndpoints and routeTableIds mean nothing without vpcId, subnetIds and securityGroupIds",
    );
  }
  if (vpcId === undefined || subnetIds.length === 0 || securityGroupIds.length === 0) {
    throw new InvalidContext(
      "context vpcId, subnetIds and securityGroupIds belong together; give all three, or none of them for functions outside of any VPC",
    );
  }
  matching("vpcId", vpcId, idOf("vpc"), "a VPC's id");
  for (const id of subnetIds) matching("subnetIds", id, idOf("subnet"), "a list of subnets' ids");
  for (const id of securityGroupIds) matching("securityGroupIds", id, idOf("sg"), "a list of security groups' ids");
  return { vpcId, subnetIds, securityGroupIds, endpointRouteTableIds: endpoints(given) };
}

function idOf(prefix: string): RegExp {
  return new RegExp(`^${prefix}-[0-9a-f]{8,17}$`);
}

function endpoints({
  vpcEndpoints = "create",
  routeTableIds,
}: Pick<GivenNetwork, "vpcEndpoints" | "routeTableIds">): readonly string[] | undefined {
  matching("vpcEndpoints", vpcEndpoints, /^(?:create|none)$/, "create or none");
  for (const id of routeTableIds) matching("routeTableIds", id, idOf("rtb"), "a list of route tables' ids");
  if (vpcEndpoints === "none" && routeTableIds.length > 0)
    throw new InvalidContext("context routeTableIds means nothing with vpcEndpoints=none; leave it out");
  if (vpcEndpoints === "create" && routeTableIds.length === 0)
    throw new InvalidContext(
      "context routeTableIds must list the route tables of the subnets: the endpoints of S3 and DynamoDB stand in these; give vpcEndpoints=none where the VPC has endpoints or a NAT gateway",
    );
  return vpcEndpoints === "create" ? routeTableIds : undefined;
}

/** A function runs in one place only. */
function inTheSamePlace(
  network: Network | undefined,
  fileSystem: MountedFileSystem | undefined,
): MountedFileSystem | undefined {
  const sorted = (ids: readonly string[]) => [...ids].sort().join();
  if (network && fileSystem && sorted(network.subnetIds) !== sorted(fileSystem.subnetIds))
    throw new InvalidContext(
      "context file.subnetIds and subnetIds must be the same: the same functions mount the file system and reach the hypervisors",
    );
  return fileSystem;
}
