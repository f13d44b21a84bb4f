/** The API but for hypervisors and stores: nothing here reaches either of them. Wiring only. */
import { composeServices } from "../composition/services.ts";
import { requiredEnvironment } from "../environment.ts";
import { getJob } from "../tables/jobs.ts";
import { apiHandler, publicRoute, route } from "./api-handler.ts";
import { readHealth } from "./health.ts";
import { cancelJob, listJobs, readJob } from "./jobs.ts";
import { readOpenapi } from "./openapi.ts";
import { operations } from "./operations.ts";
import { backupSnapshot, restoreSnapshot } from "./snapshot-actions.ts";
import { readLocation } from "./snapshot-location.ts";
import { createSnapshot, deleteSnapshot, listSnapshots, readSnapshot } from "./snapshots.ts";
import { tokenSettings } from "./token-settings.ts";
import { listVms, readVm } from "./vms.ts";
import { createVmSnapshot, listVmSnapshots } from "./vms-snapshots.ts";
import { listVolumes, protectVolume, readVolume, unprotectVolume } from "./volumes.ts";

const services = composeServices();
const ownBucketPlace = { bucket: requiredEnvironment("BACKUP_BUCKET"), region: requiredEnvironment("AWS_REGION") };

export const handler = apiHandler(
  [
    route(operations.createSnapshot, (request) => createSnapshot(services, request)),
    route(operations.listSnapshots, (request) => listSnapshots(services, request)),
    route(operations.getSnapshot, (request) => readSnapshot(services, request)),
    route(operations.getSnapshotLocation, (request) => readLocation(services, ownBucketPlace, request)),
    route(operations.deleteSnapshot, (request) => deleteSnapshot(services, request)),
    route(operations.restoreSnapshot, (request) => restoreSnapshot(services, request)),
    route(operations.backupSnapshot, (request) => backupSnapshot(services, request)),
    route(operations.listJobs, (request) => listJobs(services, request)),
    route(operations.getJob, (request) => readJob(services, request)),
    route(operations.cancelJob, (request) => cancelJob(services, request)),
    route(operations.listVolumes, (request) => listVolumes(services, request)),
    route(operations.getVolume, (request) => readVolume(services, request)),
    route(operations.unprotectVolume, (request) => unprotectVolume(services, request)),
    route(operations.protectVolume, (request) => protectVolume(services, request)),
    route(operations.listVms, (request) => listVms(services, request)),
    route(operations.getVm, (request) => readVm(services, request)),
    route(operations.createVmSnapshot, (request) => createVmSnapshot(services, request)),
    route(operations.listVmSnapshots, (request) => listVmSnapshots(services, request)),
    publicRoute(operations.getHealth, () => readHealth(services)),
    publicRoute(operations.getOpenapi, readOpenapi),
  ],
  {
    logger: services.logger,
    tokens: tokenSettings(),
    readJob: (tenant, id) => getJob(services.database, tenant, id),
  },
);
