/** Snapferry, put together. Each construct says what it is for. */
import { Annotations, CfnOutput, Stack } from "aws-cdk-lib";
import type { Construct } from "constructs";
import { Api } from "./api.ts";
import { BackupBucket } from "./backup-bucket.ts";
import type { Deployment } from "./deployment.ts";
import { EncryptionKey } from "./encryption-key.ts";
import { Events } from "./events.ts";
import { Functions } from "./functions.ts";
import { MachineArns } from "./machine-arns.ts";
import { VpcEndpoints } from "./network.ts";
import { Observability } from "./observability.ts";
import { Settings } from "./settings.ts";
import { Tables, tableNames } from "./tables.ts";
import { Triggers } from "./triggers.ts";
import { Workflows } from "./workflows.ts";

export class SnapferryStack extends Stack {
  constructor(scope: Construct, deployment: Deployment) {
    super(scope, deployment.stackName, {
      stackName: deployment.stackName,
      description: "Snapferry: snapshots VM volumes in a moment and backs them up in their own time",
    });
    const machineArns = new MachineArns(this);
    const tables = new Tables(this, "Tables", deployment);
    const backupBucket = new BackupBucket(this, "Backups", deployment);
    const encryptionKey = new EncryptionKey(this, "Encryption", deployment);
    const settings = new Settings(this, "Settings", { texts: deployment.settings });
    const events = new Events(this, "Events", deployment);
    const functions = new Functions(this, "Functions", {
      deployment,
      tables,
      backupBucket,
      encryptionKey,
      settings,
      machineArns,
      events,
    });
    if (deployment.network?.endpointRouteTableIds)
      new VpcEndpoints(this, "Network", {
        network: deployment.network,
        routeTableIds: deployment.network.endpointRouteTableIds,
        usesKms: deployment.encryptionKey !== "none",
      });
    const workflows = new Workflows(this, "Workflows", {
      functions,
      backupBucket,
      machineArns,
      shardConcurrency: deployment.shardConcurrency,
      checkIntervalHours: deployment.checkIntervalHours,
    });
    const { checkIntervalHours } = deployment;
    new Triggers(this, "Triggers", { tables, functions, workflows, machineArns, events, checkIntervalHours });
    const api = new Api(this, "Api", { functions, rate: deployment.apiRate, burst: deployment.apiBurst });
    const observability = new Observability(this, "Observability", {
      functions,
      workflows,
      events,
      alarmEmail: deployment.alarmEmail,
    });
    if (deployment.authentication === undefined)
      Annotations.of(this).addWarningV2(
        "snapferry:nobody-may-call",
        "The API will answer every request with 401: give the context auth.issuer, auth.audience and auth.jwksUrl of your OpenID Connect provider.",
      );

    this.#output({
      ApiId: api.restApi.restApiId,
      ApiUrl: api.restApi.url.replace(/\/$/, ""),
      BackupBucketName: backupBucket.bucket.bucketName,
      EventBusName: events.bus.eventBusName,
      TopicArn: events.topic.topicArn,
      AlarmTopicArn: observability.topic.topicArn,
      SettingsPath: settings.path,
      StateMachineArnPrefix: machineArns.prefix,
      TasksFunctionName: functions.tasks.functionName,
      CopyFunctionName: functions.copy.functionName,
      CollectFunctionName: functions.collect.functionName,
      DispatchFunctionName: functions.dispatch.functionName,
      PublishFunctionName: functions.publish.functionName,
      ReconcileFunctionName: functions.reconcile.functionName,
      PublishDeadLetterQueueUrl: events.publishDeadLetters.queueUrl,
    });
    this.#output(Object.fromEntries(tableNames.map((name) => [`${name}TableName`, tables.table(name).tableName])));
  }

  #output(values: Readonly<Record<string, string>>): void {
    for (const [name, value] of Object.entries(values)) new CfnOutput(this, name, { value });
  }
}
