/** The guard of `endpoint.ts` for undici, whose requests hand over bodies without a stream in between. */
import { isIP } from "node:net";
import { Agent, buildConnector } from "undici";
import { type EgressRules, guardedLookup, literalRefusal } from "./endpoint.ts";

/** What is behind is spoken to in HTTP/1.1, whatever it offers: undici would take HTTP/2, and no server that tests run against speaks that. */
const http1 = { allowH2: false };

/** An agent that connects to nothing but checked addresses, literal ones too; without `rules` to any. */
export function guardedDispatcher(
  rules: EgressRules | undefined,
  options: Omit<Agent.Options, "connect" | "connectTimeout"> & { readonly connectTimeout: number },
): Agent {
  if (!rules) return new Agent({ ...options, ...http1 });
  // An agent does not tell the time for connections to who makes them in its place.
  const connection = { ...http1, timeout: options.connectTimeout };
  const connectors = {
    "http:": buildConnector({ ...connection, lookup: guardedLookup(rules.allowedCidrs, { plain: true }) }),
    "https:": buildConnector({ ...connection, lookup: guardedLookup(rules.allowedCidrs) }),
  };
  const connect: buildConnector.connector = (target, callback) => {
    const plain = target.protocol !== "https:";
    const host = target.hostname.replace(/^\[|\]$/g, "");
    const failure = isIP(host) === 0 ? undefined : literalRefusal(host, { ...rules, plain });
    if (failure) callback(failure, null);
    else connectors[plain ? "http:" : "https:"](target, callback);
  };
  return new Agent({ ...options, ...http1, connect });
}
