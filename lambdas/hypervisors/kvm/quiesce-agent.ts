/** Talks to the guest agent, the program inside a VM that holds and lets go its file systems. */
import { HypervisorFailed } from "../../domain/errors.ts";
import type { Domain } from "../../protocols/libvirt/procedures.ts";
import type { KvmHost } from "./host.ts";

/** libvirt gives up an agent by itself; only then its own answer is late. */
const answerMarginMs = 5_000;

/**
 * What the agent answers to a command. The time is the agent's own: libvirt's calls for the same have none, so that an agent that hangs
 * would hold every other command back, the one that lets go too.
 */
export async function askAgent(
  host: KvmHost,
  domain: Domain,
  execute: "guest-fsfreeze-status" | "guest-fsfreeze-freeze" | "guest-fsfreeze-thaw",
  timeoutSeconds: number,
): Promise<unknown> {
  const command = JSON.stringify({ execute });
  const args = { domain, command, timeout: timeoutSeconds, flags: 0 };
  const timeoutMs = timeoutSeconds * 1000 + answerMarginMs;
  const { result } = await host.call("domainAgentCommand", args, { timeoutMs });
  return returned(result ?? "");
}

function returned(text: string): unknown {
  try {
    return (JSON.parse(text) as { return?: unknown }).return;
  } catch (cause) {
    throw new HypervisorFailed("The guest agent did not answer in JSON.", { cause });
  }
}
