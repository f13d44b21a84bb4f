import { composeServices } from "../composition/services.ts";
import { collectGarbageStates } from "./collect-garbage.ts";
import { deleteSnapshotStates } from "./delete-snapshot.ts";
import { taskHandler } from "./state-function.ts";

export const handler = taskHandler(composeServices(), {
  "delete-snapshot": deleteSnapshotStates,
  "collect-garbage": collectGarbageStates,
});
