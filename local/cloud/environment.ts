import { dirname, join } from "node:path";
import { CHECKOUT, NODE_BINARY } from "./paths.ts";

/** Region of every local cloud. */
export const REGION = "us-east-1";
/** Account of every local cloud. */
export const ACCOUNT = "000000000000";

// What says where the machine is in the network and how it talks; everything else stays out.
const PASSED_ON =
  /^(PATH|USER|LOGNAME|SHELL|LANG|LC_.*|TERM|https?_proxy|HTTPS?_PROXY|ALL_PROXY|SSL_CERT_(FILE|DIR)|NODE_EXTRA_CA_CERTS)$/;

/** Variables of this process that a program may see that has nothing to do with AWS, npm or Python of the caller. */
export function plainEnvironment(environment: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const passed = Object.fromEntries(Object.entries(environment).filter(([name]) => PASSED_ON.test(name)));
  return { ...passed, NO_PROXY: "127.0.0.1,localhost", no_proxy: "127.0.0.1,localhost" };
}

/** Test credentials and the local endpoint: with these, nothing can reach a real account. */
export function awsEnvironment(endpoint: string): NodeJS.ProcessEnv {
  return {
    AWS_ENDPOINT_URL: endpoint,
    AWS_ACCESS_KEY_ID: "test",
    AWS_SECRET_ACCESS_KEY: "test",
    AWS_REGION: REGION,
    AWS_DEFAULT_REGION: REGION,
    AWS_EC2_METADATA_DISABLED: "true",
    AWS_CONFIG_FILE: "/dev/null",
    AWS_SHARED_CREDENTIALS_FILE: "/dev/null",
  };
}

/** The caller's environment without its AWS settings, and with Node 24 and this checkout's commands first on PATH. */
export function toolEnvironment(endpoint: string, environment: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const kept = Object.fromEntries(Object.entries(environment).filter(([name]) => !/^(AWS_|CDK_|npm_)/.test(name)));
  const path = [dirname(NODE_BINARY), join(CHECKOUT, "node_modules", ".bin"), environment.PATH ?? ""].join(":");
  return {
    ...kept,
    ...awsEnvironment(endpoint),
    PATH: path,
    NO_PROXY: "127.0.0.1,localhost",
    no_proxy: "127.0.0.1,localhost",
  };
}

/** An SDK client's settings for a local cloud. */
export function clientSettings(endpoint: string) {
  return {
    endpoint,
    region: REGION,
    credentials: { accessKeyId: "test", secretAccessKey: "test" },
  };
}
