import { composeServices } from "../composition/services.ts";
import { backupSnapshotStates } from "./backup-snapshot.ts";
import { checkBackupsStates } from "./check-backups.ts";
import { createSnapshotStates } from "./create-snapshot.ts";
import { restoreVolumeStates } from "./restore-volume.ts";
import { taskHandler } from "./state-function.ts";

export const handler = taskHandler(composeServices(), {
  "create-snapshot": createSnapshotStates,
  "backup-snapshot": backupSnapshotStates,
  "restore-volume": restoreVolumeStates,
  "check-backups": checkBackupsStates,
});
