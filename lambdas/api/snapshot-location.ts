/** Where the backup of a snapshot lies, for who may read the bucket without this service. */
import { dedupDomain, defaultStoreId } from "../domain/inventory.ts";
import type { Services } from "../services.ts";
import { getStore } from "../tables/stores.ts";
import { requireSnapshot } from "./access.ts";
import type { ApiRequest } from "./api-handler.ts";
import type { ApiResponse } from "./http.ts";
import { explainRefusal } from "./lookups.ts";
import type { operations } from "./operations.ts";
import { notFound } from "./problem.ts";
import type { SnapshotLocation } from "./response-schemas.ts";

/** The stack's own bucket: in no row. */
export interface OwnBucketPlace {
  readonly bucket: string;
  readonly region: string;
}

export async function readLocation(
  services: Services,
  ownBucket: OwnBucketPlace,
  { caller, id }: ApiRequest<(typeof operations)["getSnapshotLocation"]>,
): Promise<ApiResponse> {
  const snapshot = await requireSnapshot(services, caller, id);
  if (snapshot.state !== "BackedUp") throw await explainRefusal(services, caller, id, "restore");
  const { tenant, volumeId, storeId } = snapshot;
  const common = { snapshotId: id, storeId, domain: dedupDomain(tenant, volumeId) };
  const encrypted = snapshot.encrypted ?? false;
  if (storeId === defaultStoreId) return located({ ...common, ...ownBucket, prefix: "", encrypted });
  const store = await getStore(services.database, tenant, storeId);
  if (!store) throw notFound("store", storeId);
  const { bucket, prefix, endpoint, region, pathStyle, encryption } = store;
  return located({
    ...common,
    bucket,
    prefix,
    ...(endpoint === undefined ? {} : { endpoint }),
    region,
    pathStyle,
    encrypted: encrypted || encryption === "client",
  });
}

function located(location: SnapshotLocation): ApiResponse {
  return { status: 200, body: location };
}
