/** Secrets that a request may name. */
import { isSecretOf, secretPrefix } from "../domain/inventory.ts";
import type { Caller } from "./http.ts";
import { invalidRequest } from "./problem.ts";

/** Throws a Problem for the field `secretId` that names a secret of somebody else. */
export function requireOwnSecret({ tenant }: Caller, secretId: string): void {
  if (isSecretOf(tenant, secretId)) return;
  throw invalidRequest([
    {
      pointer: "/secretId",
      detail: `must be the name of a secret that begins with ${secretPrefix(tenant)}: each tenant has its own`,
    },
  ]);
}
