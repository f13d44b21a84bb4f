import { setTimeout as sleep } from "node:timers/promises";
import {
  CloudWatchLogsClient,
  DescribeLogGroupsCommand,
  paginateFilterLogEvents,
} from "@aws-sdk/client-cloudwatch-logs";
import { clientSettings } from "./environment.ts";
import { LocalCloudError } from "./errors.ts";

const PREFIX = "/aws/lambda/";
const POLL_MS = 1_000;

/**
 * Prints what a Lambda function has logged to CloudWatch.
 *
 * @param part of the function's name; upper and lower case are the same
 * @param follow goes on until the process is ended
 * @throws LocalCloudError no function of such a name has logged anything, or several have
 */
export async function printFunctionLogs(endpoint: string, part: string, follow: boolean): Promise<void> {
  const client = new CloudWatchLogsClient(clientSettings(endpoint));
  try {
    const logGroupName = await findGroup(client, part);
    const printed = new Set<string>();
    do {
      for await (const page of paginateFilterLogEvents({ client }, { logGroupName })) {
        for (const { eventId = "", message = "" } of page.events ?? []) {
          if (printed.has(eventId)) continue;
          printed.add(eventId);
          process.stdout.write(message.endsWith("\n") ? message : `${message}\n`);
        }
      }
      if (follow) await sleep(POLL_MS);
    } while (follow);
  } finally {
    client.destroy();
  }
}

async function findGroup(client: CloudWatchLogsClient, part: string): Promise<string> {
  const { logGroups = [] } = await client.send(new DescribeLogGroupsCommand({ logGroupNamePrefix: PREFIX }));
  const names = logGroups.map(({ logGroupName = "" }) => logGroupName.slice(PREFIX.length));
  const matching = names.filter((name) => name.toLowerCase().includes(part.toLowerCase()));
  const exact = names.find((name) => name === part) ?? (matching.length === 1 ? matching[0] : undefined);
  if (exact !== undefined) return PREFIX + exact;
  if (matching.length > 1) throw new LocalCloudError(`"${part}" fits several functions: ${matching.join(", ")}`);
  throw new LocalCloudError(
    `No function whose name has "${part}" in it has logged anything yet; there are: ${names.join(", ") || "none"}`,
  );
}
