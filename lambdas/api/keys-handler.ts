import { requiredEnvironment } from "../environment.ts";

/** As long as those wait who fetch the keys themselves. */
const timeoutMilliseconds = 5_000;

/**
 * The issuer's public keys (JWKS), for a function that runs where the issuer cannot be reached; it checks tokens itself. Throws when they
 * cannot be had.
 */
export async function handler(): Promise<unknown> {
  const url = requiredEnvironment("AUTH_JWKS_URL");
  const response = await fetch(url, {
    headers: { accept: "application/json, application/jwk-set+json" },
    redirect: "error",
    signal: AbortSignal.timeout(timeoutMilliseconds),
  });
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return response.json();
}
