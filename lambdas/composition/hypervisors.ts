import { HypervisorMisconfigured } from "../domain/errors.ts";
import type { HypervisorRow } from "../domain/inventory.ts";
import { environmentList } from "../environment.ts";
import { FileHypervisor } from "../hypervisors/file/file-hypervisor.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import type { Database } from "../tables/database.ts";
import { getHypervisor } from "../tables/hypervisors.ts";

/** An adapter that stays for the life of the function, with the settings that it was made with. */
interface OpenedHypervisor {
  readonly settings: string;
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
  const settings = row && JSON.stringify(row.settings);
  if (known && known.settings === settings) return known.adapter;
  opened.delete(key);
  if (known) closeInTime(known);
  if (!row || settings === undefined) throw new HypervisorMisconfigured(`${id} is no longer registered`);
  const adapter = hypervisorOf(row);
  opened.set(key, { settings, adapter });
  return adapter;
}

/** Nobody waits for it: what it was connected to may be gone. */
function closeInTime({ adapter }: OpenedHypervisor): void {
  adapter.then((hypervisor) => hypervisor.close?.()).catch(() => undefined);
}

/**
 * A new adapter for a hypervisor, registered or about to be. A root of `file.roots` with `{tenant}` in it is each tenant's own:
 * none can register a directory of another.
 */
export async function hypervisorOf({
  tenant,
  settings,
}: Pick<HypervisorRow, "tenant" | "settings">): Promise<Hypervisor> {
  switch (settings.kind) {
    case "file": {
      const allowedRoots = environmentList("FILE_ROOTS").map((root) => root.replaceAll("{tenant}", tenant));
      return new FileHypervisor({ directory: settings.directory, allowedRoots });
    }
    case "kvm":
      throw new HypervisorMisconfigured(`${settings.endpoint} is a KVM host, which this version does not use yet`);
  }
}
