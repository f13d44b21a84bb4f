import { composeServices } from "../composition/services.ts";
import { startCodec } from "../repository/codec.ts";
import { copyBackupStates, copyRestoreStates } from "./copy-shards.ts";
import { taskHandler } from "./state-function.ts";

// While the rest is loaded.
startCodec();

export const handler = taskHandler(composeServices(), {
  "backup-snapshot": copyBackupStates,
  "restore-volume": copyRestoreStates,
});
