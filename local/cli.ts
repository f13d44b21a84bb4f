import { createReadStream, existsSync, statSync, watchFile } from "node:fs";
import { Command, InvalidArgumentError, Option } from "commander";
import { type Cloud, DEFAULT_NAME, startCloud, stopCloud } from "./cloud/cloud.ts";
import { apiUrl } from "./cloud/deploy.ts";
import { awsEnvironment } from "./cloud/environment.ts";
import { LocalCloudError } from "./cloud/errors.ts";
import { printFunctionLogs } from "./cloud/function-logs.ts";
import { consoleProgress } from "./cloud/progress.ts";
import { type CloudState, isRunning, readState } from "./cloud/state.ts";
import { issueToken, ROLES, type Role } from "./cloud/tokens.ts";

const FOLLOW_MS = 250;
const TENANT = "demo";

const program = new Command("npm run local --")
  .description("The local cloud: Snapferry on LocalStack, without Docker, without root.")
  .addOption(new Option("--name <name>", "which cloud of this checkout").default(DEFAULT_NAME))
  .helpCommand(false)
  .showHelpAfterError();

program
  .command("up")
  .description("install, start and deploy; the cloud runs until `down`")
  .option("--context <key=value>", "CDK context for the deployment (may be repeated)", collect, {})
  .option("--bare", "start the AWS services only, deploy nothing")
  .option("--json", "print the result as JSON")
  .action(up);
program.command("down").description("end the cloud; nothing of it stays but its log").action(down);
program.command("status").description("what runs, and where").option("--json", "print it as JSON").action(status);
program
  .command("logs")
  .description("the log of LocalStack, or of a Lambda function")
  .option("-f, --follow", "go on printing what comes")
  .option("--function <name>", "a function, by a part of its name")
  .action(logs);
program
  .command("reset")
  .description("down, and up again from nothing")
  .option("--context <key=value>", "CDK context for the deployment (may be repeated)", collect, {})
  .option("--json", "print the result as JSON")
  .action(async (options) => {
    await down();
    await up(options);
  });
program
  .command("env")
  .description('environment for the CLI, curl and AWS tools: eval "$(npm run -s local -- env)"')
  .addOption(new Option("--tenant <tenant>", "whose token").default(TENANT))
  .addOption(new Option("--role <role>", "what it may do").choices(ROLES).default("admin"))
  .action(printEnvironment);
program
  .command("token")
  .description("a signed token for the API")
  .requiredOption("--tenant <tenant>", "whose resources")
  .addOption(new Option("--role <role>", "what it may do").choices(ROLES).makeOptionMandatory())
  .option("--hours <hours>", "how long it is valid", positive, 12)
  .action(async ({ tenant, role, hours }: { tenant: string; role: Role; hours: number }) => {
    console.log(await issueToken(cloudName(), { tenant, role, hours }));
  });

try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof LocalCloudError || error instanceof TypeError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}

async function up(options: { context?: Record<string, string>; bare?: boolean; json?: boolean }): Promise<void> {
  const started = performance.now();
  const cloud = await startCloud({
    name: cloudName(),
    context: options.context,
    deploy: !options.bare,
    foreground: false,
    onProgress: consoleProgress(process.stderr),
  });
  if (options.json) console.log(JSON.stringify(describeCloud(cloud), null, 2));
  else printCloud(cloud, performance.now() - started);
}

function describeCloud({ name, endpoint, url, outputs, logFile }: Cloud) {
  return { name, endpoint, url, outputs, logFile };
}

function printCloud(cloud: Cloud, elapsedMs: number): void {
  console.log(`\nThe local cloud "${cloud.name}" is up (${(elapsedMs / 1000).toFixed(0)} s).`);
  console.log(`  AWS services  ${cloud.endpoint}`);
  if (cloud.outputs.ApiId) console.log(`  API           ${cloud.url}/v1`);
  console.log(`\nGo on:   eval "$(npm run -s local -- env)"`);
  console.log(`         npm run local -- logs -f`);
  console.log(`         npm run local -- reset     deploys anew after a change`);
  console.log(`         npm run local -- down      ends it`);
}

async function down(): Promise<void> {
  const state = readState(cloudName());
  await stopCloud(cloudName());
  if (!state) console.error(`No local cloud "${cloudName()}" is running.`);
  else if (state.mode === "external") console.error(`The cloud at ${state.endpoint} is not ours and goes on.`);
  else console.error(`The local cloud "${cloudName()}" is down.`);
}

function status(options: { json?: boolean }): void {
  const state = readState(cloudName());
  const running = state !== undefined && isRunning(state);
  if (options.json) {
    console.log(JSON.stringify({ name: cloudName(), running, ...state }, null, 2));
  } else if (!running) {
    console.log(`The local cloud "${cloudName()}" is not running; start it: npm run local -- up`);
  } else {
    const kept = {
      background: "runs until down",
      foreground: `ends with process ${state.owner?.pid}`,
      external: "kept by others",
    };
    console.log(`${state.name}: ${state.endpoint}, ${kept[state.mode]}, since ${state.startedAt}`);
    if (state.localstack) console.log(`  process       ${state.localstack.pid}`);
    if (state.outputs?.ApiId) console.log(`  API           ${apiUrl(state.endpoint, state.outputs)}/v1`);
    if (state.logFile) console.log(`  log           ${state.logFile}`);
  }
  process.exitCode = running ? 0 : 3;
}

async function logs(options: { follow?: boolean; function?: string }): Promise<void> {
  const state = runningState();
  const follow = options.follow ?? false;
  if (options.function) return printFunctionLogs(state.endpoint, options.function, follow);
  if (!state.logFile || !existsSync(state.logFile)) {
    throw new LocalCloudError(`The cloud at ${state.endpoint} is not ours: its log is where it was started.`);
  }
  await printFile(state.logFile, 0);
  if (follow) followFile(state.logFile);
}

function followFile(path: string): void {
  let printed = statSync(path).size;
  watchFile(path, { interval: FOLLOW_MS }, async ({ size }) => {
    const from = size < printed ? 0 : printed;
    printed = size;
    if (size > from) await printFile(path, from, size - 1);
  });
}

async function printFile(path: string, start: number, end?: number): Promise<void> {
  for await (const chunk of createReadStream(path, { start, end })) process.stdout.write(chunk);
}

async function printEnvironment({ tenant, role }: { tenant: string; role: Role }): Promise<void> {
  const { name, endpoint, outputs } = runningState();
  const { AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION } = awsEnvironment(endpoint);
  const aws = { AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION };
  const api = outputs
    ? { SNAPFERRY_URL: apiUrl(endpoint, outputs), SNAPFERRY_TOKEN: await issueToken(name, { tenant, role }) }
    : {};
  for (const [variable, value] of Object.entries({ ...api, ...aws })) console.log(`export ${variable}=${value}`);
}

function runningState(): CloudState {
  const state = readState(cloudName());
  if (state && isRunning(state)) return state;
  throw new LocalCloudError(`The local cloud "${cloudName()}" is not running; start it: npm run local -- up`);
}

function cloudName(): string {
  return program.opts<{ name: string }>().name;
}

function collect(text: string, previous: Record<string, string>): Record<string, string> {
  const [, key, value] = /^([^=]+)=(.*)$/s.exec(text) ?? [];
  if (key === undefined || value === undefined) throw new InvalidArgumentError("It has to be key=value.");
  return { ...previous, [key]: value };
}

function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError("It has to be a number above 0.");
  return value;
}
