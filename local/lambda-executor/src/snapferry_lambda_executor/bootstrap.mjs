// The Node side of worker.py, where the protocol is described. Stands for the Lambda runtime.
import { existsSync, readFileSync, statSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { Socket } from "node:net";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { format } from "node:util";

// Lambda's limit of a synchronous answer: 6 MiB and some for the envelope.
const MAX_RESPONSE_BYTES = 6 * 1024 * 1024 + 100;
const EXIT_OF_UNCAUGHT_EXCEPTION = 129;
const EXIT_OF_UNHANDLED_REJECTION = 128;

const requestFd = Number(take("SNAPFERRY_REQUEST_FD"));
const replyFd = Number(take("SNAPFERRY_REPLY_FD"));
// For those who look for the processes of a cloud, not for the function.
take("SNAPFERRY_RUN_DIRECTORY");
let current = "";

function take(name) {
  const value = process.env[name];
  delete process.env[name];
  return value;
}

function send(message) {
  const bytes = Buffer.from(`${JSON.stringify(message)}\n`);
  for (let sent = 0; sent < bytes.length; ) {
    try {
      sent += writeSync(replyFd, bytes, sent);
    } catch (error) {
      if (error.code === "EPIPE") process.exit(0);
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

function captureOutput() {
  const asJson = process.env.AWS_LAMBDA_LOG_FORMAT === "JSON";
  const levels = { log: "INFO", info: "INFO", debug: "DEBUG", warn: "WARN", error: "ERROR", trace: "TRACE" };
  for (const [method, level] of Object.entries(levels)) {
    console[method] = (...values) => {
      const timestamp = new Date().toISOString();
      const text = format(...values);
      const message = values.length === 1 && typeof values[0] === "object" ? values[0] : text;
      const line = asJson
        ? JSON.stringify({ timestamp, level, requestId: current, message })
        : `${timestamp}\t${current || "undefined"}\t${level}\t${text.replaceAll("\n", "\r")}`;
      send({ type: "log", text: `${line}\n` });
    };
  }
  for (const stream of [process.stdout, process.stderr]) {
    stream.write = (chunk, encoding, callback) => {
      send({ type: "log", text: typeof chunk === "string" ? chunk : Buffer.from(chunk).toString() });
      const done = typeof encoding === "function" ? encoding : callback;
      if (done) process.nextTick(done);
      return true;
    };
  }
}

function describeError(thrown) {
  if (thrown instanceof Error || (typeof thrown === "object" && thrown !== null && "message" in thrown)) {
    return {
      errorType: thrown.name || thrown.constructor?.name || "Error",
      errorMessage: String(thrown.message),
      trace: String(thrown.stack ?? "").split("\n"),
    };
  }
  const text = typeof thrown === "object" && thrown !== null ? JSON.stringify(thrown) : String(thrown);
  return { errorType: thrown === null || thrown === undefined ? "null" : typeof thrown, errorMessage: text, trace: [] };
}

function named(name, message) {
  return Object.assign(new Error(message), { name });
}

function endOn(event, exitCode, describe) {
  process.on(event, (thrown) => {
    const error = describe(thrown);
    console.error(
      event === "uncaughtException" ? "Uncaught Exception" : "Unhandled Promise Rejection",
      JSON.stringify(error),
    );
    if (current) send({ type: "error", id: current, error, fatal: true });
    else send({ type: "init-error", error });
    process.exit(exitCode);
  });
}

async function loadHandler() {
  const root = process.env.LAMBDA_TASK_ROOT;
  const name = process.env._HANDLER;
  const [file, ...exports] = basename(name).split(".");
  const path = join(root, dirname(name), file);
  const found = ["", ".js", ".mjs", ".cjs"]
    .map((ending) => path + ending)
    .find((candidate) => existsSync(candidate) && statSync(candidate).isFile());
  if (!found) throw named("Runtime.ImportModuleError", `Error: Cannot find module '${file}'`);
  const module = isEsModule(found, root) ? await import(pathToFileURL(found).href) : createRequire(found)(found);
  const handler = exports.reduce((value, key) => value?.[key], module);
  if (typeof handler !== "function") throw named("Runtime.HandlerNotFound", `${name} is undefined or not exported`);
  return handler;
}

function isEsModule(file, root) {
  if (!file.endsWith(".js")) return file.endsWith(".mjs");
  const manifest = join(root, "package.json");
  return existsSync(manifest) && JSON.parse(readFileSync(manifest, "utf8")).type === "module";
}

function contextOf(request) {
  const deadline = Date.now() + request.timeoutMs;
  const environment = process.env;
  return {
    callbackWaitsForEmptyEventLoop: true,
    functionName: environment.AWS_LAMBDA_FUNCTION_NAME,
    functionVersion: environment.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: environment.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: environment.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: environment.AWS_LAMBDA_LOG_STREAM_NAME,
    invokedFunctionArn: request.arn,
    awsRequestId: request.id,
    getRemainingTimeInMillis: () => Math.max(0, deadline - Date.now()),
  };
}

async function answer(handler, request) {
  current = request.id;
  process.env._X_AMZN_TRACE_ID = request.trace ?? "";
  try {
    const value = await handler(request.payload === "" ? {} : JSON.parse(request.payload), contextOf(request));
    const body = JSON.stringify(value) ?? "null";
    const size = Buffer.byteLength(body);
    if (size > MAX_RESPONSE_BYTES) {
      const text = `Response payload size (${size} bytes) exceeded maximum allowed payload size (${MAX_RESPONSE_BYTES} bytes).`;
      throw named("Function.ResponseSizeTooLarge", text);
    }
    send({ type: "result", id: request.id, body });
  } catch (thrown) {
    const error = describeError(thrown);
    console.error("Invoke Error", JSON.stringify(error));
    send({ type: "error", id: request.id, error });
  }
}

function serve(handler) {
  const parts = [];
  let last = Promise.resolve();
  const input = new Socket({ fd: requestFd, readable: true, writable: false });
  input.on("data", (chunk) => {
    let rest = chunk;
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      const request = JSON.parse(Buffer.concat([...parts.splice(0), rest.subarray(0, end)]).toString());
      last = last.then(() => answer(handler, request));
      rest = rest.subarray(end + 1);
    }
    if (rest.length > 0) parts.push(rest);
  });
  input.on("close", () => process.exit(0));
}

captureOutput();
endOn("uncaughtException", EXIT_OF_UNCAUGHT_EXCEPTION, (thrown) => ({
  ...describeError(thrown),
  errorType: "Runtime.UncaughtException",
}));
endOn("unhandledRejection", EXIT_OF_UNHANDLED_REJECTION, (thrown) => {
  const { errorType, errorMessage, trace } = describeError(thrown);
  return { errorType: "Runtime.UnhandledPromiseRejection", errorMessage: `${errorType}: ${errorMessage}`, trace };
});
try {
  const handler = await loadHandler();
  serve(handler);
  send({ type: "ready" });
} catch (thrown) {
  const error = describeError(thrown);
  console.error(error.errorType, JSON.stringify(error));
  send({ type: "init-error", error });
  process.exit(1);
}
