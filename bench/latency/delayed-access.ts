import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { S3Access } from "../server/s3-server.ts";

export interface DelayedAccess {
  readonly access: S3Access;
  stop(): Promise<void>;
}

/** The same store behind a proxy that holds every request back. The proxy is a process of its own, so that its time is not the client's. */
export async function delayRequests(access: S3Access, delayMs: number): Promise<DelayedAccess> {
  const { port } = new URL(access.endpoint);
  // The proxy ends when its stdin does, so it does not outlive this process.
  const proxy = spawn(process.execPath, [join(import.meta.dirname, "proxy.ts"), port, String(delayMs)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const [line] = (await once(proxy.stdout, "data")) as [Buffer];
  return {
    access: { ...access, endpoint: `http://127.0.0.1:${line.toString().trim()}` },
    stop: async () => {
      const ended = once(proxy, "exit");
      proxy.stdin.end();
      await ended;
    },
  };
}
