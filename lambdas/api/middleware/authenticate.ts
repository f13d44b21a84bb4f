/** Who asks: a bearer token (JWT) of the configured issuer, with the tenant and the role in its claims. */
import type { MiddlewareObj } from "@middy/core";
import { createRemoteJWKSet, customFetch, errors, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from "jose";
import { type ApiEvent, type ApiResponse, type Caller, mayActAs, type Role, roles } from "../http.ts";
import { Problem, unavailable } from "../problem.ts";

/** Only signatures by key pairs: with a shared secret or `none` a verifier could be talked into accepting anything. */
const algorithms = ["ES256", "RS256", "EdDSA"];
const clockToleranceSeconds = 5;
const tenantPattern = /^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$/;

export interface TokenSettings {
  readonly issuer: string;
  readonly audience: string;
  /** The issuer's public keys. */
  readonly keys: JWTVerifyGetKey;
}

/**
 * The keys behind a JWKS URL: fetched when first needed, kept for ten minutes, fetched anew for an unknown key. `fetchKeys` fetches them
 * where the URL cannot be reached from here.
 */
export function remoteKeys(jwksUrl: string, fetchKeys?: () => Promise<Response>): JWTVerifyGetKey {
  return createRemoteJWKSet(new URL(jwksUrl), {
    ...(fetchKeys && { [customFetch]: fetchKeys }),
    timeoutDuration: 5000,
    cooldownDuration: 5000,
    cacheMaxAge: 600_000,
  });
}

/** Lets callers through whose role is `role` or a higher one. No valid token: 401; a lesser role: 403; no keys to check with: 503. */
export function authenticate(settings: TokenSettings | undefined, role: Role): MiddlewareObj<ApiEvent, ApiResponse> {
  return {
    before: async ({ event }) => {
      const token = bearerToken(event.headers?.authorization);
      if (!settings) throw unauthorized("This deployment names no issuer, so it takes no token.", "invalid_token");
      const caller = callerOf(await verify(token, settings));
      if (!mayActAs(caller, role))
        throw new Problem("forbidden", `This needs the role ${role}; the token has the role ${caller.role}.`);
      event.caller = caller;
    },
  };
}

function bearerToken(header: string | undefined): string {
  if (header === undefined || header === "")
    throw unauthorized("The request has no token: send Authorization: Bearer TOKEN.");
  const match = /^Bearer +([A-Za-z0-9._~+/=-]+) *$/i.exec(header);
  if (!match?.[1]) throw unauthorized("The Authorization header is not of the form Bearer TOKEN.", "invalid_request");
  return match[1];
}

async function verify(token: string, { issuer, audience, keys }: TokenSettings): Promise<JWTPayload> {
  const options = { issuer, audience, algorithms, clockTolerance: clockToleranceSeconds, requiredClaims: ["exp"] };
  try {
    return (await jwtVerify(token, keys, options)).payload;
  } catch (error) {
    if (error instanceof errors.JWKSMultipleMatchingKeys) return verifyWithEach(token, error, options);
    throw problemOf(error);
  }
}

/** A token without a key id may be signed by any of several keys. */
async function verifyWithEach(
  token: string,
  candidates: errors.JWKSMultipleMatchingKeys,
  options: Parameters<typeof jwtVerify>[2],
): Promise<JWTPayload> {
  for await (const key of candidates) {
    try {
      return (await jwtVerify(token, key, options)).payload;
    } catch (error) {
      if (!(error instanceof errors.JWSSignatureVerificationFailed)) throw problemOf(error);
    }
  }
  throw unauthorized("The token's signature does not fit any key of the issuer.", "invalid_token");
}

/** Errors that are about the token. Whatever else happens on the way is about fetching the keys. */
const tokenErrors = [
  errors.JWTExpired,
  errors.JWTClaimValidationFailed,
  errors.JWTInvalid,
  errors.JWSInvalid,
  errors.JWSSignatureVerificationFailed,
  errors.JOSEAlgNotAllowed,
  errors.JOSENotSupported,
  errors.JWKSNoMatchingKey,
];

function problemOf(error: unknown): Problem {
  if (error instanceof errors.JWTExpired) return unauthorized("The token has expired.", "invalid_token");
  if (error instanceof errors.JWTClaimValidationFailed)
    return unauthorized(`The token's claim "${error.claim}" is missing or not as it must be.`, "invalid_token");
  if (tokenErrors.some((tokenError) => error instanceof tokenError))
    return unauthorized("The token is not one of the configured issuer, or was changed.", "invalid_token");
  return unavailable("The token cannot be checked now: the issuer's keys cannot be fetched.", error);
}

function callerOf(claims: JWTPayload): Caller {
  const { tenant, role } = claims;
  if (typeof tenant !== "string" || !tenantPattern.test(tenant))
    throw unauthorized('The token\'s claim "tenant" is missing or not as it must be.', "invalid_token");
  const known = roles.find((candidate) => candidate === role);
  if (known === undefined)
    throw new Problem(
      "forbidden",
      `The token's claim "role" must be ${roles.slice(0, -1).join(", ")} or ${roles.at(-1)}.`,
    );
  return { tenant, role: known };
}

/** RFC 6750: the challenge says what is wrong, unless there was no token at all. */
function unauthorized(detail: string, error?: "invalid_request" | "invalid_token"): Problem {
  const challenge = error === undefined ? "" : `, error="${error}", error_description="${detail.replaceAll('"', "'")}"`;
  return new Problem("unauthorized", detail, {
    headers: { "WWW-Authenticate": `Bearer realm="snapferry"${challenge}` },
  });
}
