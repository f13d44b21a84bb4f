/** What handlers are given. `composition.ts` builds the real things; tests pass others. */
import type { Logger } from "@aws-lambda-powertools/logger";
import type { Settings } from "./domain/settings.ts";
import type { Executions } from "./executions/executions.ts";
import type { Hypervisor } from "./hypervisors/port.ts";
import type { KeyService } from "./repository/key-service.ts";
import type { ObjectStore } from "./repository/object-store.ts";
import type { Database } from "./tables/database.ts";

export interface Services {
  readonly database: Database;
  readonly executions: Executions;
  readonly logger: Logger;
  /** Read live: a change takes effect within seconds, except on what a running job copied. */
  settings(): Promise<Settings>;
  /** The adapter for a registered hypervisor. Throws HypervisorMisconfigured when there is none. */
  hypervisor(tenant: string, hypervisorId: string): Promise<Hypervisor>;
  /**
   * The store of that id, the stack's bucket for `default`, within its limits. Once `until` answers true it is not held back any more.
   * Throws StoreRefused when there is none.
   */
  objectStore(tenant: string, storeId: string, until?: () => boolean): Promise<ObjectStore>;
  /** What opens the domains of that store; undefined when it is not encrypted. Throws StoreRefused when there is none. */
  keyService(tenant: string, storeId: string): Promise<KeyService | undefined>;
  /** The stack's own bucket, apart from any tenant: lists of work for Step Functions lie there. */
  ownBucket(): Promise<ObjectStore>;
  now(): Date;
}
