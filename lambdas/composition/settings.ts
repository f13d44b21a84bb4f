import { GetParametersByPathCommand, SSMClient } from "@aws-sdk/client-ssm";
import { parseSettings, type SettingName, type Settings, settingNames } from "../domain/settings.ts";

/** How long a reading serves. A change of a setting takes effect after this long at most. */
const keepMilliseconds = 5_000;

const known: ReadonlySet<string> = new Set(settingNames);

/** The settings below `path` in Parameter Store. A parameter that was set to nonsense fails with a sentence that names it. */
export function parameterSettings(path: () => string): () => Promise<Settings> {
  const client = new SSMClient({ maxAttempts: 5 });
  let reading: { settings: Promise<Settings>; until: number } | undefined;
  return () => {
    if (reading === undefined || reading.until <= Date.now()) {
      const settings = readParameters(client, path()).then(parseSettings);
      reading = { settings, until: Date.now() + keepMilliseconds };
      settings.catch(() => {
        reading = undefined;
      });
    }
    return reading.settings;
  };
}

async function readParameters(client: SSMClient, path: string): Promise<Partial<Record<SettingName, string>>> {
  const texts: Partial<Record<SettingName, string>> = {};
  let token: string | undefined;
  do {
    const page = await client.send(new GetParametersByPathCommand({ Path: path, NextToken: token }));
    for (const { Name, Value } of page.Parameters ?? []) {
      const name = Name?.slice(path.length + 1) ?? "";
      if (known.has(name) && Value !== undefined) texts[name as SettingName] = Value.trim();
    }
    token = page.NextToken;
  } while (token !== undefined);
  return texts;
}
