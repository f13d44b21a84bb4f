/** Hypervisors: register, list, look at, discover, forget. */
import { newId } from "../domain/ids.ts";
import type { HypervisorCheck, HypervisorRow } from "../domain/inventory.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { transact, WriteRefused } from "../tables/database.ts";
import { getHypervisor, insertHypervisor, listHypervisors as listRows } from "../tables/hypervisors.ts";
import type { ApiRequest } from "./api-handler.ts";
import { pageAnswer } from "./cursor.ts";
import { discover } from "./discovery.ts";
import { forgetHypervisor } from "./forgetting.ts";
import type { ApiResponse, Caller } from "./http.ts";
import { hypervisorProblem } from "./hypervisor-problems.ts";
import { blamedField, settingsOf } from "./hypervisor-settings.ts";
import { idempotently } from "./middleware/idempotency.ts";
import type { operations } from "./operations.ts";
import { requireOwnSecret } from "./own-secret.ts";
import { invalidRequest, notFound, Problem } from "./problem.ts";
import { hypervisorRepresentation, pathOf } from "./representations.ts";

type Operations = typeof operations;

/** The adapter for settings that are not registered yet. Whoever opens it closes it. */
export type OpenHypervisor = (hypervisor: Pick<HypervisorRow, "tenant" | "id" | "settings">) => Promise<Hypervisor>;

export async function registerHypervisor(
  services: Services,
  open: OpenHypervisor,
  request: ApiRequest<Operations["registerHypervisor"]>,
): Promise<ApiResponse> {
  const { caller, body } = request;
  const id = body.id ?? newId("hypervisor");
  const answer = await idempotently(services, request, { hypervisor: id }, async ({ ids, record }) => {
    if (body.kind === "kvm") requireOwnSecret(caller, body.secretId);
    const { settings, defaultName } = settingsOf(body);
    const lastCheck = await check(services, open, { tenant: caller.tenant, id: ids.hypervisor, settings, body });
    const row: HypervisorRow = {
      tenant: caller.tenant,
      id: ids.hypervisor,
      name: body.name ?? defaultName,
      settings,
      tenantRules: body.tenantRules,
      lastCheck,
      createdAt: lastCheck.at,
    };
    const answer = hypervisorRepresentation(row, caller);
    try {
      await transact(services.database, [insertHypervisor(services.database, row), ...record(answer)]);
    } catch (error) {
      if (error instanceof WriteRefused && (await getHypervisor(services.database, caller.tenant, row.id)))
        throw new Problem(
          "hypervisor-in-use",
          `${row.id} is registered already. Leave the id out for another hypervisor.`,
        );
      throw error;
    }
    return answer;
  });
  return { status: 201, headers: { Location: pathOf("hypervisors", answer.id) }, body: answer };
}

/** Tries the hypervisor out. A failure that a field of the request is to blame for is a Problem that names it. */
async function check(
  services: Services,
  open: OpenHypervisor,
  { body, ...hypervisor }: Parameters<OpenHypervisor>[0] & { body: Parameters<typeof blamedField>[1] },
): Promise<HypervisorCheck> {
  try {
    const adapter = await open(hypervisor);
    const report = await adapter.check().finally(() => adapter.close?.());
    return { at: services.now().toISOString(), ...report };
  } catch (error) {
    const pointer = blamedField(error, body);
    if (pointer === undefined) throw error;
    throw invalidRequest([{ pointer, detail: (error as Error).message }]);
  }
}

export async function listHypervisors(
  services: Services,
  { caller, query }: ApiRequest<Operations["listHypervisors"]>,
): Promise<ApiResponse> {
  const page = await listRows(services.database, caller.tenant, { limit: query.limit, after: query.cursor });
  return pageAnswer(
    page.items.map((row) => hypervisorRepresentation(row, caller)),
    page.next,
  );
}

export async function readHypervisor(
  services: Services,
  { caller, id }: ApiRequest<Operations["getHypervisor"]>,
): Promise<ApiResponse> {
  return { status: 200, body: hypervisorRepresentation(await requireHypervisor(services, caller, id), caller) };
}

export async function discoverVolumes(
  services: Services,
  { caller, id }: ApiRequest<Operations["discoverVolumes"]>,
): Promise<ApiResponse> {
  const row = await requireHypervisor(services, caller, id);
  try {
    const found = await discover(services, row);
    if (!found) throw notFound("hypervisor", id);
    return { status: 200, body: found };
  } catch (error) {
    throw hypervisorProblem(id, error);
  }
}

export async function deleteHypervisor(
  services: Services,
  { caller, id, query }: ApiRequest<Operations["deleteHypervisor"]>,
): Promise<ApiResponse> {
  const row = await requireHypervisor(services, caller, id);
  return { status: 200, body: await forgetHypervisor(services, row, query) };
}

async function requireHypervisor(services: Services, caller: Caller, id: string): Promise<HypervisorRow> {
  const row = await getHypervisor(services.database, caller.tenant, id);
  if (!row) throw notFound("hypervisor", id);
  return row;
}
