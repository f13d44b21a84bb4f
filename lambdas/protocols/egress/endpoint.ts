/**
 * Guards calls to endpoints that a user names against reaching the inside of the network (SSRF). {@link checkEndpoint} tells early and in
 * words; {@link guardedAgents} makes sure that the address that is connected to is one that was checked, whatever DNS says by then.
 */
import { lookup as lookupCallback } from "node:dns";
import { lookup } from "node:dns/promises";
import { Agent as HttpAgent, type AgentOptions as HttpAgentOptions } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import { isIP, type LookupFunction, Socket } from "node:net";
import { isForbiddenAddress, isWithin } from "./addresses.ts";

/** An endpoint that must not be called. The message says why. */
export class ForbiddenAddress extends Error {
  override readonly name = "ForbiddenAddress";
}

export interface EgressRules {
  /** Addresses that may be called although they are not public, and without TLS: `10.1.0.0/16`, `127.0.0.1`, `fd00::/8`. */
  readonly allowedCidrs: readonly string[];
}

/** Throws ForbiddenAddress unless the URL may be called; errors of DNS pass through. */
export async function checkEndpoint(url: string, rules: EgressRules): Promise<void> {
  const { protocol, username, password, hostname } = parse(url);
  if (protocol !== "https:" && protocol !== "http:")
    throw new ForbiddenAddress(`${protocol} is neither http: nor https:.`);
  if (username !== "" || password !== "") throw new ForbiddenAddress("The endpoint must not hold credentials.");
  const host = hostname.startsWith("[") ? hostname.slice(1, -1) : hostname;
  const addresses = isIP(host) === 0 ? (await lookup(host, { all: true })).map(({ address }) => address) : [host];
  assertAllowed(host, addresses, { ...rules, plain: protocol === "http:" });
}

function parse(url: string): URL {
  if (URL.canParse(url)) return new URL(url);
  throw new ForbiddenAddress(`${JSON.stringify(url)} is not a URL.`);
}

export interface ConnectionRules extends EgressRules {
  /** Whether the connection is without TLS: then only allowed addresses will do. */
  readonly plain: boolean;
}

function assertAllowed(host: string, addresses: readonly string[], rules: ConnectionRules): void {
  if (addresses.length === 0) throw new ForbiddenAddress(`${host} has no address.`);
  for (const address of addresses) {
    const name = address === host ? address : `${host} (${address})`;
    if (isForbiddenAddress(address, rules.allowedCidrs)) {
      throw new ForbiddenAddress(`${name} is not a public address, and not among the allowed ones.`);
    }
    if (rules.plain && !isWithin(address, rules.allowedCidrs)) {
      throw new ForbiddenAddress(`${name} may only be called with https:.`);
    }
  }
}

/**
 * For `Agent({ lookup })`: resolves, and fails with ForbiddenAddress unless every address may be called. Node does not look up literal
 * addresses: see {@link guardedAgents}.
 */
export function guardedLookup(allowedCidrs: readonly string[], options: { plain?: boolean } = {}): LookupFunction {
  const rules = { allowedCidrs, plain: options.plain ?? false };
  return (hostname, lookupOptions, callback) => {
    lookupCallback(hostname, { ...lookupOptions, all: true }, (error, addresses) => {
      const failure =
        error ??
        refusal(() =>
          assertAllowed(
            hostname,
            addresses.map(({ address }) => address),
            rules,
          ),
        );
      const [first] = addresses ?? [];
      if (failure) callback(failure, "", 0);
      else if (lookupOptions.all) callback(null, addresses);
      else callback(null, first!.address, first!.family);
    });
  };
}

function refusal(check: () => void): Error | undefined {
  try {
    check();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

/** Why a literal address may not be called, if so. */
export function literalRefusal(address: string, rules: ConnectionRules): Error | undefined {
  return refusal(() => assertAllowed(address, [address], rules));
}

/** Agents that connect to nothing but checked addresses, literal ones too. */
export function guardedAgents(
  allowedCidrs: readonly string[],
  options: HttpAgentOptions = {},
): { httpAgent: HttpAgent; httpsAgent: HttpsAgent } {
  const plainRules = { allowedCidrs, plain: true };
  const rules = { allowedCidrs, plain: false };
  const httpAgent = new HttpAgent({ ...options, lookup: guardedLookup(allowedCidrs, { plain: true }) });
  const httpsAgent = new HttpsAgent({ ...options, lookup: guardedLookup(allowedCidrs) });
  guardLiterals(httpAgent, plainRules);
  guardLiterals(httpsAgent, rules);
  return { httpAgent, httpsAgent };
}

/** Checks the host of every new connection that is an address already. A refusal is an error of the request, as any failed connection. */
function guardLiterals(agent: HttpAgent, rules: ConnectionRules): void {
  const connect = agent.createConnection.bind(agent);
  agent.createConnection = (options, callback) => {
    const host = options.host ?? "localhost";
    const failure = isIP(host) === 0 ? undefined : literalRefusal(host, rules);
    if (!failure) return connect(options, callback);
    process.nextTick(() => callback?.(failure, new Socket()));
    return undefined;
  };
}
