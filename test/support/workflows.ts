/** What tests do to the workflows from outside. */
import assert from "node:assert/strict";
import { DescribeExecutionCommand, StartExecutionCommand } from "@aws-sdk/client-sfn";
import { PutParameterCommand } from "@aws-sdk/client-ssm";
import type { Services } from "../../lambdas/services.ts";
import { eventually, type TestCloud } from "./cloud.ts";

/** Longer than the functions keep a reading of the settings. */
const settingsTakeEffectMilliseconds = 5_500;

/** Runs garbage collection once and waits for its end, which must be a good one. */
export function collectGarbage(cloud: TestCloud): Promise<void> {
  return runMachine(cloud, "collect-garbage");
}

/** Runs a machine that belongs to no job, as the clock does, and waits for its end, which must be a good one. */
export async function runMachine(cloud: TestCloud, name: "collect-garbage" | "check-backups"): Promise<void> {
  const { executionArn } = await cloud.clients.sfn.send(
    new StartExecutionCommand({ stateMachineArn: `${cloud.outputs.StateMachineArnPrefix}${name}` }),
  );
  const { status, error, cause } = await eventually(`${name} has ended`, async () => {
    const execution = await cloud.clients.sfn.send(new DescribeExecutionCommand({ executionArn }));
    return execution.status !== "RUNNING" && execution;
  });
  assert.equal(status, "SUCCEEDED", `a round of ${name} failed: ${error}: ${cause}`);
}

/** Collects until `done` answers true: grace periods pass meanwhile. */
export async function collectUntil(cloud: TestCloud, what: string, done: () => Promise<boolean>): Promise<void> {
  await eventually(
    what,
    async () => {
      await collectGarbage(cloud);
      return done();
    },
    { seconds: 90, pauseMilliseconds: 500 },
  );
}

/** Changes settings of the running stack and waits until the functions have taken notice. */
export async function changeSettings(cloud: TestCloud, settings: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, Value] of Object.entries(settings))
    await cloud.clients.ssm.send(
      new PutParameterCommand({ Name: `${cloud.outputs.SettingsPath}/${name}`, Value, Overwrite: true }),
    );
  await new Promise((resolve) => setTimeout(resolve, settingsTakeEffectMilliseconds));
}

/** The deployed functions' own services, in this process: for what no caller can bring about from outside. */
export async function servicesOf(cloud: TestCloud): Promise<Services> {
  const { outputs } = cloud;
  Object.assign(process.env, {
    AWS_ENDPOINT_URL: cloud.endpoint,
    AWS_REGION: "us-east-1",
    AWS_ACCESS_KEY_ID: "test",
    AWS_SECRET_ACCESS_KEY: "test",
    SNAPSHOTS_TABLE: outputs.SnapshotsTableName,
    STORE_REFERENCES_TABLE: outputs.StoreReferencesTableName,
    JOBS_TABLE: outputs.JobsTableName,
    VOLUMES_TABLE: outputs.VolumesTableName,
    VMS_TABLE: outputs.VmsTableName,
    HYPERVISORS_TABLE: outputs.HypervisorsTableName,
    STORES_TABLE: outputs.StoresTableName,
    POOLS_TABLE: outputs.PoolsTableName,
    PROGRESS_TABLE: outputs.ProgressTableName,
    REQUESTS_TABLE: outputs.RequestsTableName,
    RATES_TABLE: outputs.RatesTableName,
    BACKUP_BUCKET: outputs.BackupBucketName,
    SETTINGS_PATH: outputs.SettingsPath,
    STATE_MACHINE_ARN_PREFIX: outputs.StateMachineArnPrefix,
    FILE_ROOTS: "/",
    ALLOWED_CIDRS: "127.0.0.0/8",
    POWERTOOLS_LOG_LEVEL: "SILENT",
  });
  const { composeServices } = await import("../../lambdas/composition/services.ts");
  return composeServices();
}
