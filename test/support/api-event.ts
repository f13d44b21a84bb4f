/** Events as API Gateway (REST, proxy integration) sends them to a function, and tokens as an issuer signs them. */
import type { APIGatewayProxyEvent, Context } from "aws-lambda";
import { createLocalJWKSet, exportJWK, generateKeyPair, type JSONWebKeySet, type JWTPayload, SignJWT } from "jose";
import type { TokenSettings } from "../../lambdas/api/middleware/authenticate.ts";

export interface EventOptions {
  readonly method?: string;
  readonly path?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string | readonly string[]>>;
  readonly body?: string | null;
  readonly base64?: boolean;
}

export function apiEvent(options: EventOptions = {}): APIGatewayProxyEvent {
  const { method = "GET", path = "/", headers = {}, query = {}, body = null, base64 = false } = options;
  const values = Object.entries(query).map(([name, value]): [string, string[]] => [name, [value].flat() as string[]]);
  return {
    httpMethod: method,
    path,
    resource: "/{proxy+}",
    headers: { ...headers },
    multiValueHeaders: Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, [value]])),
    queryStringParameters:
      values.length === 0 ? null : Object.fromEntries(values.map(([name, all]) => [name, all.at(-1)])),
    multiValueQueryStringParameters: values.length === 0 ? null : Object.fromEntries(values),
    pathParameters: { proxy: path.slice(1) },
    stageVariables: null,
    body,
    isBase64Encoded: base64,
    requestContext: {
      requestId: "request-1",
      stage: "v1",
      path: `/v1${path}`,
      requestTimeEpoch: 0,
    } as APIGatewayProxyEvent["requestContext"],
  };
}

export function lambdaContext(remainingMilliseconds = 29_000): Context {
  return { getRemainingTimeInMillis: () => remainingMilliseconds } as Context;
}

export interface Issuer {
  readonly settings: TokenSettings;
  /** Its public keys, as it would publish them. */
  readonly keys: JSONWebKeySet;
  /** A token of this issuer. `claims` may take any of them away or change it. */
  token(claims?: JWTPayload & Record<string, unknown>, header?: { alg?: string; kid?: string }): Promise<string>;
}

/** An issuer with a key pair of its own. */
export async function issuer(algorithm = "ES256"): Promise<Issuer> {
  const { publicKey, privateKey } = await generateKeyPair(algorithm);
  const jwk = { ...(await exportJWK(publicKey)), kid: "key-1", alg: algorithm };
  return {
    settings: { issuer: "https://issuer.test", audience: "snapferry", keys: createLocalJWKSet({ keys: [jwk] }) },
    keys: { keys: [jwk] },
    token: (claims = {}, header = {}) => {
      const now = Math.floor(Date.now() / 1000);
      const all = {
        iss: "https://issuer.test",
        aud: "snapferry",
        exp: now + 600,
        tenant: "acme",
        role: "operator",
        ...claims,
      };
      return new SignJWT(JSON.parse(JSON.stringify(all)))
        .setProtectedHeader({ alg: algorithm, kid: "key-1", ...header })
        .sign(privateKey);
    },
  };
}
