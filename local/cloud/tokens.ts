import { join } from "node:path";
import { CreateBucketCommand, PutObjectCommand, S3Client } from "@aws-sdk/client-s3";
import { calculateJwkThumbprint, exportJWK, generateKeyPair, importJWK, type JWK, SignJWT } from "jose";
import { clientSettings } from "./environment.ts";
import { LocalCloudError } from "./errors.ts";
import { runDirectory } from "./paths.ts";
import { readJson, readState, writePrivately } from "./state.ts";

/** Roles that the API knows, from the least to the most allowed. */
export const ROLES = ["reader", "operator", "admin"] as const;
/** What a caller may do. */
export type Role = (typeof ROLES)[number];

/** The bucket that stands for the issuer: its address is the `iss` of every token. */
const ISSUER_BUCKET = "snapferry-local-issuer";
const AUDIENCE = "snapferry";
const ALGORITHM = "ES256";
const DEFAULT_HOURS = 12;

/** How the deployed API checks tokens. */
export interface IssuerSettings {
  issuer: string;
  audience: string;
  /** Address of the public keys. */
  jwksUrl: string;
}

/** What a token says. */
export interface TokenRequest {
  tenant: string;
  role: Role;
  /** Who holds it; `local-ROLE` when nothing is said. */
  subject?: string;
  /** How long it is valid. */
  hours?: number;
}

/** The issuer's addresses in a cloud. */
export function issuerSettings(endpoint: string): IssuerSettings {
  const issuer = `${endpoint}/${ISSUER_BUCKET}`;
  return { issuer, audience: AUDIENCE, jwksUrl: `${issuer}/jwks.json` };
}

/**
 * Makes a key pair for this run and publishes the public key in the cloud's own S3, where an OIDC issuer would have it.
 * A key pair that the run has already is published again.
 */
export async function publishIssuer(name: string, endpoint: string): Promise<IssuerSettings> {
  const key = readJson<JWK>(keyFile(name)) ?? (await makeKey(name));
  const { kty, crv, x, y, kid, alg, use } = key;
  const s3 = new S3Client({ ...clientSettings(endpoint), forcePathStyle: true });
  try {
    await s3.send(new CreateBucketCommand({ Bucket: ISSUER_BUCKET }));
    await s3.send(
      new PutObjectCommand({
        Bucket: ISSUER_BUCKET,
        Key: "jwks.json",
        ContentType: "application/json",
        Body: JSON.stringify({ keys: [{ kty, crv, x, y, kid, alg, use }] }),
      }),
    );
  } finally {
    s3.destroy();
  }
  return issuerSettings(endpoint);
}

/**
 * Signs a token that the deployed API takes.
 *
 * @throws LocalCloudError no cloud of this name has been started
 */
export async function issueToken(name: string, request: TokenRequest): Promise<string> {
  const key = readJson<JWK>(keyFile(name));
  const state = readState(name);
  if (!key || !state)
    throw new LocalCloudError("There is no local cloud to make a token for; start one: npm run local -- up");
  const { issuer, audience } = issuerSettings(state.endpoint);
  return new SignJWT({ tenant: request.tenant, role: request.role })
    .setProtectedHeader({ alg: ALGORITHM, kid: key.kid, typ: "JWT" })
    .setIssuer(issuer)
    .setAudience(audience)
    .setSubject(request.subject ?? `local-${request.role}`)
    .setIssuedAt()
    .setExpirationTime(Math.floor(Date.now() / 1000) + Math.round((request.hours ?? DEFAULT_HOURS) * 3600))
    .sign(await importJWK(key, ALGORITHM));
}

function keyFile(name: string): string {
  return join(runDirectory(name), "issuer.json");
}

async function makeKey(name: string): Promise<JWK> {
  const { privateKey } = await generateKeyPair(ALGORITHM, { extractable: true });
  const jwk = await exportJWK(privateKey);
  const key = { ...jwk, kid: await calculateJwkThumbprint(jwk), alg: ALGORITHM, use: "sig" };
  writePrivately(keyFile(name), JSON.stringify(key));
  return key;
}
