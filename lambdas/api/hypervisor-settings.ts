/** What a request says of a hypervisor, as rows keep it; and which of its fields is to blame when it cannot be used so. */
import path from "node:path";
import {
  EndpointForbidden,
  HypervisorFailed,
  HypervisorMisconfigured,
  HypervisorUnavailable,
  PathOutsideDirectory,
  SecretUnusable,
} from "../domain/errors.ts";
import type { HypervisorSettings } from "../domain/inventory.ts";
import { parseSshEndpoint, sshEndpointText } from "../domain/ssh-endpoint.ts";
import { SshHostKeyMismatch, SshKeyRejected } from "../protocols/ssh/errors.ts";
import { fingerprint, keyType } from "../protocols/ssh/host-key.ts";
import { knownKeysOf, publicKeyOf } from "../protocols/ssh/known-hosts.ts";
import type { BodyOf, operations } from "./operations.ts";

type Body = BodyOf<(typeof operations)["registerHypervisor"]>;
type KvmBody = Extract<Body, { kind: "kvm" }>;

/** The settings, and what the hypervisor is called if nothing else is said. `body` has passed its schema. */
export function settingsOf(body: Body): { settings: HypervisorSettings; defaultName: string } {
  if (body.kind === "file") {
    const { kind, directory } = body;
    return { settings: { kind, directory }, defaultName: path.posix.basename(directory) || directory };
  }
  const { kind, secretId, uri } = body;
  const endpoint = parseSshEndpoint(body.endpoint);
  if (!endpoint) throw new TypeError("the endpoint has not passed its schema");
  const settings = { kind, endpoint: sshEndpointText(endpoint), ...hostKeysOf(body, endpoint), secretId, uri };
  return { settings, defaultName: endpoint.host };
}

function hostKeysOf(
  { hostKey, knownHosts }: KvmBody,
  endpoint: { host: string; port: number },
): { hostKeys: string[]; hostKeyTypes: string[] } {
  const named = hostKey === undefined ? undefined : publicKeyOf(hostKey);
  const keys = named ? [named] : knownKeysOf(knownHosts ?? "", endpoint);
  return { hostKeys: [...new Set(keys.map(fingerprint))], hostKeyTypes: [...new Set(keys.map(keyType))] };
}

/** The field that a failed check is about, as a JSON pointer; undefined when the failure says nothing about the request. */
export function blamedField(error: unknown, body: Body): string | undefined {
  const isAboutSettings =
    error instanceof HypervisorMisconfigured ||
    error instanceof HypervisorUnavailable ||
    error instanceof HypervisorFailed ||
    error instanceof PathOutsideDirectory;
  if (body.kind === "file") return isAboutSettings ? "/directory" : undefined;
  if (error instanceof SecretUnusable) return "/secretId";
  if (error instanceof EndpointForbidden) return "/endpoint";
  if (!isAboutSettings) return undefined;
  if (error.cause instanceof SshKeyRejected) return "/secretId";
  if (error.cause instanceof SshHostKeyMismatch) return body.hostKey === undefined ? "/knownHosts" : "/hostKey";
  return "/endpoint";
}
