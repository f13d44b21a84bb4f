import { isDeepStrictEqual } from "node:util";
import { HypervisorMisconfigured, SecretUnusable } from "../domain/errors.ts";
import {
  type HypervisorRow,
  type HypervisorSettings,
  isSecretOf,
  type KvmHypervisorSettings,
} from "../domain/inventory.ts";
import { parseSshEndpoint } from "../domain/ssh-endpoint.ts";
import { environmentList } from "../environment.ts";
import { FileHypervisor } from "../hypervisors/file/file-hypervisor.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import type { Database } from "../tables/database.ts";
import { getHypervisor } from "../tables/hypervisors.ts";
import { readSecret } from "./secrets.ts";

type RegisteredAs = Pick<HypervisorRow, "tenant" | "id" | "settings">;

/** An adapter that stays for the life of the function, with the settings that it was made with. */
interface OpenedHypervisor {
  readonly settings: HypervisorSettings;
  readonly adapter: Promise<Hypervisor>;
}

const opened = new Map<string, OpenedHypervisor>();

/**
 * The adapter of a registered hypervisor: the one that this function used before, with its connections, unless the settings have changed.
 * Throws HypervisorMisconfigured when it is not registered (any more).
 */
export async function openHypervisor(database: Database, tenant: string, id: string): Promise<Hypervisor> {
  const row = await getHypervisor(database, tenant, id);
  const key = `${tenant}/${id}`;
  const known = opened.get(key);
  if (known && isDeepStrictEqual(known.settings, row?.settings)) return known.adapter;
  opened.delete(key);
  if (known) closeInTime(known);
  if (!row) throw new HypervisorMisconfigured(`${id} is no longer registered`);
  const fresh = { settings: row.settings, adapter: hypervisorOf(row) };
  opened.set(key, fresh);
  fresh.adapter.catch(() => opened.get(key) === fresh && opened.delete(key));
  return fresh.adapter;
}

/** Nobody waits for it: what it was connected to may be gone. */
function closeInTime({ adapter }: OpenedHypervisor): void {
  adapter.then((hypervisor) => hypervisor.close?.()).catch(() => undefined);
}

/**
 * A new adapter for a hypervisor, registered or about to be. A root of `file.roots` with `{tenant}` in it is each tenant's own:
 * none can register a directory of another.
 */
export async function hypervisorOf({ tenant, id, settings }: RegisteredAs): Promise<Hypervisor> {
  switch (settings.kind) {
    case "file": {
      const allowedRoots = environmentList("FILE_ROOTS").map((root) => root.replaceAll("{tenant}", tenant));
      return new FileHypervisor({ directory: settings.directory, allowedRoots });
    }
    case "kvm":
      return kvmHypervisorOf({ tenant, id, settings });
  }
}

/** SSH, libvirt and NBD are loaded by the functions that meet such a hypervisor, and by no others. */
async function kvmHypervisorOf({
  tenant,
  id,
  settings,
}: RegisteredAs & { settings: KvmHypervisorSettings }): Promise<Hypervisor> {
  const { KvmHypervisor } = await import("../hypervisors/kvm/kvm-hypervisor.ts");
  const endpoint = parseSshEndpoint(settings.endpoint);
  if (!endpoint) throw new HypervisorMisconfigured(`${settings.endpoint} is not ssh://user@host:port`);
  const { hostKeys, hostKeyTypes, uri, secretId } = settings;
  return new KvmHypervisor({
    endpoint,
    hostKeys,
    ...(hostKeyTypes && { hostKeyTypes }),
    uri,
    privateKey: () => readPrivateKey(tenant, secretId),
    allowedCidrs: environmentList("ALLOWED_CIDRS"),
    owner: `${id}-${tenant}`,
  });
}

/** Read for each connection, so that a rotated key takes effect with the next one. */
async function readPrivateKey(tenant: string, secretId: string): Promise<string> {
  if (!isSecretOf(tenant, secretId)) throw new SecretUnusable(`the secret ${secretId} is not one of ${tenant}`);
  const text = await readSecret(secretId);
  if (/^-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text.trim())) return text;
  throw new SecretUnusable(`the secret ${secretId} must be a private key in OpenSSH's format or PEM, and nothing else`);
}
