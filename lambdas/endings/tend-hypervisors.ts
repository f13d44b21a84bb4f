/** What workers that died left open on hypervisors: file systems of guests that are held, exports that nobody reads. */
import type { HypervisorRow } from "../domain/inventory.ts";
import { isOutside } from "../domain/outside-faults.ts";
import type { Services } from "../services.ts";
import { tendedHypervisors } from "../tables/hypervisors.ts";
import { openJobs } from "../tables/jobs.ts";

/** What became of a round over the hypervisors, in numbers of them. */
export interface Tended {
  readonly tended: number;
  /** They are out of reach or cannot be used as they are registered. */
  readonly waiting: number;
  /** What went wrong is Snapferry's own. */
  readonly failed: number;
}

/** One that is out of reach takes some 20 s: so many at once make 300 of those in a call of 15 minutes. */
const atOnce = 8;

/** Every hypervisor whose kind leaves something open, of every tenant. One that fails is logged and does not hold up the others. */
export async function tendHypervisors(services: Services, until: () => boolean): Promise<Tended> {
  const counts = { tended: 0, waiting: 0, failed: 0 };
  const rows = tendedHypervisors(services.database);
  const worker = async (): Promise<void> => {
    for (let next = await rows.next(); !next.done && !until(); next = await rows.next())
      counts[await tendOrLog(services, next.value)]++;
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return counts;
}

type Row = Pick<HypervisorRow, "tenant" | "id">;

async function tendOrLog(services: Services, { tenant, id }: Row): Promise<keyof Tended> {
  const about = { tenant, hypervisorId: id };
  try {
    await tend(services, { tenant, id });
    return "tended";
  } catch (error) {
    if (isOutside(error)) {
      services.logger.warn("a hypervisor cannot be looked after now", { ...about, error: error as Error });
      return "waiting";
    }
    services.logger.error("a hypervisor could not be looked after", { ...about, error: error as Error });
    return "failed";
  }
}

/** Guests first: they stand still. One that does not answer keeps no export open. Connections are not kept for the next round. */
async function tend(services: Services, { tenant, id }: Row): Promise<void> {
  const { logger } = services;
  const about = { tenant, hypervisorId: id };
  const hypervisor = await services.hypervisor(tenant, id);
  let needed: Promise<ReadonlySet<string>> | undefined;
  const isNeeded = async (snapshotId: string) => {
    needed ??= snapshotsBeingBackedUp(services);
    return (await needed).has(snapshotId);
  };
  const thawGuests = async () => {
    const vms = (await hypervisor.thaw?.()) ?? [];
    if (vms.length > 0) logger.warn("guests were found frozen and were thawed", { ...about, vms });
  };
  const closeExports = async () => {
    const snapshots = (await hypervisor.closeStaleExports?.(isNeeded)) ?? [];
    if (snapshots.length > 0) logger.warn("exports were left open and were closed", { ...about, snapshots });
  };
  await thawGuests()
    .finally(closeExports)
    .finally(() => hypervisor.close?.());
}

/** Also those whose backups have ended and are not cleaned up yet: that closes their exports. */
async function snapshotsBeingBackedUp({ database }: Services): Promise<ReadonlySet<string>> {
  const snapshotIds = new Set<string>();
  for await (const { snapshotId } of openJobs(database, "backup-snapshot")) snapshotIds.add(snapshotId);
  return snapshotIds;
}
