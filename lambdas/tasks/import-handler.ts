import { composeServices } from "../composition/services.ts";
import type { ImportAnswer, ImportRequest } from "../domain/backup-import.ts";
import { importBackups } from "./import-backups.ts";

const services = composeServices();

/** Called by the API's function, which has checked the request. */
export const handler = (request: ImportRequest): Promise<ImportAnswer> => importBackups(services, request);
