/** Woken by the jobs table's stream and once a minute: gives free slots of the backup pool to the oldest queued jobs. */
import { composeServices } from "../composition/services.ts";
import { dispatchBackups } from "./dispatch-backups.ts";

const services = composeServices();

/** What woke it does not matter: it looks at the queue as it is. A failure fails the whole batch, which is then tried again. */
export async function handler(): Promise<{ batchItemFailures: [] }> {
  await dispatchBackups(services);
  return { batchItemFailures: [] };
}
