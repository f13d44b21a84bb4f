/** Hypervisors, what is done to their VMs, and stores: the part of the API that reaches them. Wiring only. */

import { encryptionOfDeployment } from "../composition/encryption.ts";
import { hypervisorOf } from "../composition/hypervisors.ts";
import { importFunction } from "../composition/import-function.ts";
import { keysFunction } from "../composition/keys-function.ts";
import { composeServices } from "../composition/services.ts";
import { openStore } from "../composition/stores.ts";
import { environmentList, requiredEnvironment } from "../environment.ts";
import { getJob } from "../tables/jobs.ts";
import { apiHandler, route } from "./api-handler.ts";
import {
  deleteHypervisor,
  discoverVolumes,
  listHypervisors,
  readHypervisor,
  registerHypervisor,
} from "./hypervisors.ts";
import { importBackups } from "./import.ts";
import { operations } from "./operations.ts";
import { storeChecks } from "./store-check.ts";
import { changeStore, deleteStore, listStores, readStore, registerStore } from "./stores.ts";
import { tokenSettings } from "./token-settings.ts";
import { listVmOperations, operateVm } from "./vms-operations.ts";

const services = composeServices();
const stores = {
  checks: storeChecks({ open: openStore, allowedCidrs: environmentList("ALLOWED_CIDRS") }),
  ...encryptionOfDeployment(),
};

const keysName = process.env.AUTH_KEYS_FUNCTION;
const doImport = importFunction(requiredEnvironment("IMPORT_FUNCTION"));

export const handler = apiHandler(
  [
    route(operations.registerHypervisor, (request) => registerHypervisor(services, hypervisorOf, request)),
    route(operations.listHypervisors, (request) => listHypervisors(services, request)),
    route(operations.getHypervisor, (request) => readHypervisor(services, request)),
    route(operations.deleteHypervisor, (request) => deleteHypervisor(services, request)),
    route(operations.discoverVolumes, (request) => discoverVolumes(services, request)),
    route(operations.listVmOperations, (request) => listVmOperations(services, request)),
    route(operations.operateVm, (request) => operateVm(services, request)),
    route(operations.registerStore, (request) => registerStore(services, stores, request)),
    route(operations.listStores, (request) => listStores(services, stores, request)),
    route(operations.getStore, (request) => readStore(services, stores, request)),
    route(operations.changeStore, (request) => changeStore(services, stores, request)),
    route(operations.importBackups, (request) => importBackups(services, doImport, request)),
    route(operations.deleteStore, (request) => deleteStore(services, request)),
  ],
  {
    logger: services.logger,
    tokens: tokenSettings(keysName === undefined ? undefined : keysFunction(keysName)),
    readJob: (tenant, id) => getJob(services.database, tenant, id),
  },
);
