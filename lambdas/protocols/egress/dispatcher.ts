/** The guard of `endpoint.ts` for undici, whose requests hand over bodies without a stream in between. */
import { isIP } from "node:net";
import { Agent, buildConnector } from "undici";
import { type EgressRules, guardedLookup, literalRefusal } from "./endpoint.ts";

/** An agent that connects to nothing but checked addresses, literal ones too; without `rules` to any. */
export function guardedDispatcher(rules: EgressRules | undefined, options: Agent.Options = {}): Agent {
  if (!rules) return new Agent(options);
  const connectors = {
    "http:": buildConnector({ lookup: guardedLookup(rules.allowedCidrs, { plain: true }) }),
    "https:": buildConnector({ lookup: guardedLookup(rules.allowedCidrs) }),
  };
  const connect: buildConnector.connector = (target, callback) => {
    const plain = target.protocol !== "https:";
    const host = target.hostname.replace(/^\[|\]$/g, "");
    const failure = isIP(host) === 0 ? undefined : literalRefusal(host, { ...rules, plain });
    if (failure) callback(failure, null);
    else connectors[plain ? "http:" : "https:"](target, callback);
  };
  return new Agent({ ...options, connect });
}
