import { requiredEnvironment } from "../environment.ts";
import { remoteKeys, type TokenSettings } from "./middleware/authenticate.ts";

/**
 * Whose tokens are taken, as the stack says. Undefined when it names no issuer: then nobody is let in. `fetchKeys` as in
 * {@link remoteKeys}.
 */
export function tokenSettings(fetchKeys?: () => Promise<Response>): TokenSettings | undefined {
  if (process.env.AUTH_ISSUER === undefined) return undefined;
  return {
    issuer: requiredEnvironment("AUTH_ISSUER"),
    audience: requiredEnvironment("AUTH_AUDIENCE"),
    keys: remoteKeys(requiredEnvironment("AUTH_JWKS_URL"), fetchKeys),
  };
}
