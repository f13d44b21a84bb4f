import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ACCOUNT, REGION, toolEnvironment } from "./environment.ts";
import { LocalCloudError } from "./errors.ts";
import { CHECKOUT, NODE_BINARY, runDirectory } from "./paths.ts";
import { runOrFail } from "./process.ts";
import { readJson } from "./state.ts";

/** What to deploy, and to where. */
export interface DeployOptions {
  /** Name of the cloud: files of the deployment lie in its run directory. */
  name: string;
  endpoint: string;
  /** CDK context, e.g. `{ "auth.issuer": "…" }`. */
  context?: Readonly<Record<string, string>>;
  /** Folder with the cdk.json of the app. */
  app?: string;
  /** Called with what the CDK prints. */
  onOutput?: (text: string) => void;
}

/** What a deployment has made. */
export interface Deployment {
  /** Outputs of the app's stack, by name. */
  outputs: Record<string, string>;
  /** How many resources the stack has. */
  resources: number;
}

interface Template {
  Resources?: Record<string, unknown>;
}

const CDK = join(CHECKOUT, "node_modules", "aws-cdk", "bin", "cdk");
const QUIET = ["--no-notices", "--no-version-reporting", "--no-path-metadata", "--no-asset-metadata"];
const BUILD_ADVICE = "The app does not build; the same by hand: npx cdk synth --quiet";
const DEPLOY_ADVICE =
  "The log of the cloud says more (npm run local -- logs); a stack that failed cannot be mended in place, start afresh: npm run local -- reset";

/**
 * Deploys the app as anybody would: `cdk bootstrap`, then `cdk deploy`, against the local endpoint. The account is
 * bootstrapped while the app is built.
 *
 * @throws LocalCloudError with the end of what the CDK printed
 */
export async function deploy(options: DeployOptions): Promise<Deployment> {
  const directory = runDirectory(options.name);
  const assembly = join(directory, "cdk.out");
  const outputsFile = join(directory, "outputs.json");
  const nowhere = join(directory, "tmp", "bootstrap");
  rmSync(assembly, { recursive: true, force: true });
  // In a folder without cdk.json, bootstrapping does not build the app a second time.
  mkdirSync(nowhere, { recursive: true });

  const app = options.app ?? CHECKOUT;
  const context = Object.entries(options.context ?? {}).flatMap(([key, value]) => ["--context", `${key}=${value}`]);
  const building = new AbortController();
  const cdk = (what: string, cwd: string, args: string[], advice = DEPLOY_ADVICE) =>
    runOrFail(NODE_BINARY, [CDK, ...args, ...QUIET], {
      cwd,
      env: cdkEnvironment(options.endpoint, nowhere),
      onOutput: options.onOutput,
      signal: building.signal,
      what,
      advice,
    });
  try {
    await Promise.all([
      cdk("cdk bootstrap", nowhere, ["bootstrap", `aws://${ACCOUNT}/${REGION}`, "--output", join(nowhere, "cdk.out")]),
      cdk("cdk synth", app, ["synth", "--quiet", "--output", assembly, ...context], BUILD_ADVICE),
    ]);
  } catch (error) {
    building.abort();
    throw error;
  }
  await cdk("cdk deploy", app, [
    "deploy",
    "--all",
    "--app",
    assembly,
    "--require-approval",
    "never",
    "--outputs-file",
    outputsFile,
  ]);
  const outputs = Object.assign(
    {},
    ...Object.values(readJson<Record<string, Record<string, string>>>(outputsFile) ?? {}),
  );
  return { outputs, resources: countResources(assembly) };
}

/**
 * The address of the deployed REST API, without the stage: a path begins with `/v1/`.
 *
 * @throws LocalCloudError the stack has no output ApiId
 */
export function apiUrl(endpoint: string, outputs: Readonly<Record<string, string>>): string {
  if (!outputs.ApiId)
    throw new LocalCloudError("The deployed stack has no output ApiId: the address of its API is not known.");
  // The address that the CDK prints has a host name that only resolves on AWS.
  return `${endpoint}/_aws/execute-api/${outputs.ApiId}`;
}

function cdkEnvironment(endpoint: string, home: string): NodeJS.ProcessEnv {
  return {
    ...toolEnvironment(endpoint),
    CI: "true",
    CDK_HOME: home,
    CDK_DEFAULT_ACCOUNT: ACCOUNT,
    CDK_DEFAULT_REGION: REGION,
    CDK_DISABLE_VERSION_CHECK: "1",
    CDK_DISABLE_CLI_TELEMETRY: "true",
  };
}

function countResources(assembly: string): number {
  const manifest = readJson<{ artifacts?: Record<string, { type: string; properties?: { templateFile?: string } }> }>(
    join(assembly, "manifest.json"),
  );
  const stacks = Object.values(manifest?.artifacts ?? {}).filter(({ type }) => type === "aws:cloudformation:stack");
  const templates = stacks.map(({ properties }) => readJson<Template>(join(assembly, properties?.templateFile ?? "")));
  return templates.reduce((sum, template) => sum + Object.keys(template?.Resources ?? {}).length, 0);
}
