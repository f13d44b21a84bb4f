import type { Command } from "commander";
import type { Store } from "../api-client.ts";
import {
  type Context,
  command,
  findStore,
  group,
  hintAtMore,
  type JsonOption,
  type ListOptions,
  listCommand,
  pageOptions,
  print,
} from "../context.ts";
import { CliError, exitCodes } from "../exit-codes.ts";
import { forgottenText } from "../forgotten-text.ts";
import { ago, details, printable, table } from "../format.ts";
import { optionDetails, type StoreOptionFlags, storeOptions, withStoreOptions } from "../store-options.ts";

export function storesCommand(context: Context): Command {
  return group("stores", "Where backups go", [
    "stores ls",
    "stores add off-site --bucket backups --secret snapferry/acme/off-site",
    "stores set off-site --bytes-per-second 50MiB",
  ])
    .addCommand(add(context))
    .addCommand(ls(context))
    .addCommand(get(context))
    .addCommand(set(context))
    .addCommand(rm(context));
}

interface AddOptions extends JsonOption, StoreOptionFlags<never> {
  readonly bucket: string;
  readonly secret: string;
  readonly prefix?: string;
  readonly endpoint?: string;
  readonly region?: string;
  readonly pathStyle?: boolean;
  readonly encrypt?: boolean;
}

function add(context: Context): Command {
  const adding = command("add", "Register a store; it is tried out first", [
    "stores add off-site --bucket backups --secret snapferry/acme/off-site --region eu-central-1",
    "stores add nas --bucket backups --secret snapferry/acme/nas --endpoint https://minio.example.com:9000",
    "stores add vault --bucket vault --secret snapferry/acme/vault --encrypt --object-lock compliance:365",
  ])
    .argument("<name>", "what it is called")
    .requiredOption("--bucket <bucket>", "the bucket")
    .requiredOption(
      "--secret <name>",
      "the secret with its access key, in Secrets Manager; begins with snapferry/TENANT/",
    )
    .option("--prefix <prefix>", "what the keys of all objects begin with")
    .option("--endpoint <url>", "the service, if it is not Amazon S3")
    .option("--region <region>", "the region")
    .option("--path-style", "the bucket stands in the path; so it is if an endpoint is given")
    .option("--no-path-style", "the bucket stands in the host name")
    .option("--encrypt", "backups are encrypted before they leave the worker; that never changes");
  return withStoreOptions(adding, { removable: false }).action(async (name: string, options: AddOptions) => {
    const store = await (await context.client()).stores.register({
      name,
      bucket: options.bucket,
      secretId: options.secret,
      ...(options.prefix === undefined ? {} : { prefix: options.prefix }),
      ...(options.endpoint === undefined ? {} : { endpoint: options.endpoint }),
      ...(options.region === undefined ? {} : { region: options.region }),
      ...(options.pathStyle === undefined ? {} : { pathStyle: options.pathStyle }),
      ...(options.encrypt ? { encryption: "client" } : {}),
      ...storeOptions<never>(options),
    });
    print(context, options, store, () => `${store.id} (${printable(store.name)}) works and is registered.\n`);
  });
}

function ls(context: Context): Command {
  return listCommand("List stores, the default one first", ["stores ls"]).action(async (options: ListOptions) => {
    const page = await (await context.client()).stores.list(pageOptions(options));
    print(context, options, page, () => storeTable(page.items));
    hintAtMore(context, options, page);
  });
}

function storeTable(stores: readonly Store[]): string {
  return table(
    ["ID", "NAME", "BUCKET", "ENDPOINT", "REGION", "CREATED"],
    stores.map((store) => [
      store.id,
      printable(store.name),
      store.bucket ?? "–",
      store.endpoint ?? "–",
      store.region ?? "–",
      ago(store.createdAt),
    ]),
  );
}

function get(context: Context): Command {
  return command("get", "Look at a store", ["stores get off-site", "stores get default"])
    .argument("<store>", "name or id")
    .action(async (text: string, options: JsonOption) => {
      const client = await context.client();
      const store = await client.stores.get(await findStore(client, text));
      print(context, options, store, () =>
        details([
          ["Id", store.id],
          ["Name", printable(store.name)],
          ["Bucket", store.bucket],
          ["Prefix", store.prefix],
          ["Endpoint", store.endpoint],
          ["Region", store.region],
          ["Path style", store.pathStyle === undefined ? undefined : String(store.pathStyle)],
          ["Secret", store.secretId],
          ...optionDetails(store),
          ["Created", store.createdAt],
        ]),
      );
    });
}

function set(context: Context): Command {
  const setting = command("set", "Change limits and retention of a store", [
    "stores set off-site --bytes-per-second 50MiB --requests-per-second 200",
    "stores set default --bytes-per-second none",
    "stores set vault --object-lock compliance:730",
  ]).argument("<store>", "name or id");
  return withStoreOptions(setting, { removable: true }).action(
    async (text: string, options: JsonOption & StoreOptionFlags<"none">) => {
      const changes = storeOptions<"none">(options);
      if (Object.keys(changes).length === 0)
        throw new CliError(
          exitCodes.usage,
          "Say what to change: --bytes-per-second, --requests-per-second or --object-lock.",
        );
      const client = await context.client();
      const store = await client.stores.change(await findStore(client, text), changes);
      print(context, options, store, () => details([["Id", store.id], ...optionDetails(store)]));
    },
  );
}

function rm(context: Context): Command {
  return command("rm", "Forget a store", ["stores rm off-site", "stores rm off-site --force"])
    .argument("<store>", "name or id")
    .option("--force", "also while snapshots use it; their bytes are left behind")
    .action(async (text: string, options: JsonOption & { force?: boolean }) => {
      const client = await context.client();
      const id = await findStore(client, text);
      const forgotten = await client.stores.delete(id, options.force ? { force: true } : {});
      print(context, options, forgotten, () => forgottenText(id, forgotten));
    });
}
