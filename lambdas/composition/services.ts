/** The composition root: the one place where handlers' services are built from the environment. */
import { Logger } from "@aws-lambda-powertools/logger";
import { requiredEnvironment } from "../environment.ts";
import { StepFunctionsExecutions } from "../executions/executions.ts";
import type { Services } from "../services.ts";
import { connectDatabase } from "../tables/database.ts";
import { openHypervisor } from "./hypervisors.ts";
import { parameterSettings } from "./settings.ts";
import { openKeyService, openRegisteredStore, ownBucket } from "./stores.ts";

export function composeServices(): Services {
  const database = connectDatabase({
    snapshots: tableName("SNAPSHOTS"),
    storeReferences: tableName("STORE_REFERENCES"),
    jobs: tableName("JOBS"),
    volumes: tableName("VOLUMES"),
    vms: tableName("VMS"),
    hypervisors: tableName("HYPERVISORS"),
    stores: tableName("STORES"),
    pools: tableName("POOLS"),
    progress: tableName("PROGRESS"),
    requests: tableName("REQUESTS"),
    rates: tableName("RATES"),
  });
  return {
    database,
    executions: new StepFunctionsExecutions(process.env.STATE_MACHINE_ARN_PREFIX ?? ""),
    logger: new Logger(),
    settings: parameterSettings(() => requiredEnvironment("SETTINGS_PATH")),
    hypervisor: (tenant, id) => openHypervisor(database, tenant, id),
    objectStore: (tenant, id, until) => openRegisteredStore(database, tenant, id, until),
    keyService: (tenant, id) => openKeyService(database, tenant, id),
    ownBucket: async () => ownBucket(),
    now: () => new Date(),
  };
}

/** A function is told only of the tables that it may use; a call on another fails by this name. */
function tableName(name: string): string {
  return process.env[`${name}_TABLE`] ?? `no-access-to-${name.toLowerCase()}`;
}
