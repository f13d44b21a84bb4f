// Handlers for the tests of the worker.
import { spawn } from "node:child_process";

export class StoreUnavailable extends Error {
  name = "StoreUnavailable";
}

export const echo = async (event, context) => ({ event, requestId: context.awsRequestId, pid: process.pid });
export const remaining = async (_, context) => context.getRemainingTimeInMillis();
export const size = async (event) => event.text.length;
export const grow = async (event) => "x".repeat(event.bytes);
export const nothing = async () => {};
export const sleep = async (event) => new Promise((done) => setTimeout(done, event.ms, process.pid));
export const spin = () => {
  for (;;);
};
export const spawnAndSpin = async () => {
  const child = spawn("sleep", ["600"], { stdio: "ignore" });
  process.stdout.write(`CHILD ${child.pid}\n`);
  await new Promise((done) => setTimeout(done, 50));
  spin();
};
export const fail = async () => {
  throw new StoreUnavailable("the store is away");
};
export const failWithText = async () => {
  throw "just a text";
};
export const exit = async (event) => process.exit(event.code);
export const die = async () => process.kill(process.pid, "SIGKILL");
export const throwLater = () =>
  new Promise(() =>
    setTimeout(() => {
      throw new TypeError("too late");
    }, 10),
  );
export const reject = () => new Promise(() => void Promise.reject(new TypeError("nobody listens")));
export const print = async () => {
  console.log("a line", { of: "text" });
  console.error("two\nlines");
  process.stdout.write("raw");
  return "done";
};
export const allocate = async (event) => {
  globalThis.kept = Buffer.alloc(event.mb * 1024 * 1024, 1);
};
export const variables = async (event) =>
  Object.fromEntries(event.names.map((name) => [name, process.env[name] ?? null]));
