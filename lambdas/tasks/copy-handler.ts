import { composeServices } from "../composition/services.ts";
import { copyBackupStates, copyRestoreStates } from "./copy-shards.ts";
import { taskHandler } from "./state-function.ts";

export const handler = taskHandler(composeServices(), {
  "backup-snapshot": copyBackupStates,
  "restore-volume": copyRestoreStates,
});
