/** The local cloud that integration tests run against. */
import { type Cloud, startCloud } from "./cloud/cloud.ts";
import { consoleProgress } from "./cloud/progress.ts";

/** Short times, so that what takes minutes in service takes seconds here; and a key, so that stores can be encrypted. */
const context = {
  "backup.retry.interval": "1",
  "backup.pool.size": "2",
  "reconcile.after": "2",
  "late.writer.grace": "3",
  "error.grace": "3600",
  "encryption.key": "create",
};

export interface TestCloud {
  readonly cloud: Cloud;
  /** For the processes of tests: where it is found. */
  readonly environment: Readonly<Record<string, string>>;
}

/** Says on stderr how far it is. */
export async function startTestCloud(name: string): Promise<TestCloud> {
  const cloud = await startCloud({ name, context, onProgress: consoleProgress() });
  const { endpoint, url, outputs } = cloud;
  const environment = {
    SNAPFERRY_TEST_CLOUD: JSON.stringify({ name: cloud.name, endpoint, url, outputs }),
    AWS_ENDPOINT_URL: endpoint,
  };
  return { cloud, environment };
}
