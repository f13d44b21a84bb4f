import assert from "node:assert/strict";
import { basename } from "node:path";
import { beforeEach, describe, it } from "node:test";
import { HypervisorFailed, PrimaryStorageFull, QuiesceFailed } from "../../domain/errors.ts";
import { errorCodes, LibvirtCallFailed } from "../../protocols/libvirt/errors.ts";
import { domainState } from "../../protocols/libvirt/flags.ts";
import type { Domain } from "../../protocols/libvirt/procedures.ts";
import type { KvmHost } from "./host.ts";
import { hostError } from "./host-errors.ts";
import { thawForgotten, whileHeld } from "./quiesce.ts";

const domain: Domain = { name: "web", uuid: "uuid-web", id: 1 };

/** A host with one VM, as libvirt and the agent show it. What is noted counts as forgotten at once. */
class Guest {
  state: number = domainState.running;
  frozen = false;
  /** Commands that the agent does not answer. */
  readonly silentOn = new Set<string>();
  notes: string[] = [];

  async call(name: string, args: { command: string }): Promise<unknown> {
    if (name === "domainLookupByUuid") return { domain };
    if (name === "domainGetState") return { state: this.state };
    const { execute } = JSON.parse(args.command) as { execute: string };
    if (this.state !== domainState.running) throw libvirtError("OPERATION_INVALID");
    if (this.silentOn.has(execute)) throw libvirtError("AGENT_UNRESPONSIVE");
    return { result: JSON.stringify({ return: this.#answer(execute) }) };
  }

  #answer(execute: string): unknown {
    const before = this.frozen;
    if (execute === "guest-fsfreeze-status") return before ? "frozen" : "thawed";
    this.frozen = execute === "guest-fsfreeze-freeze";
    return before === this.frozen ? 0 : 2;
  }

  async script(name: string, _text: string, [path = ""]: readonly string[]): Promise<string> {
    if (name === "leave-note") this.notes.push(basename(path));
    return name === "list-notes" ? this.notes.join("\n") : "";
  }

  async run([program, , path = ""]: readonly string[]): Promise<string> {
    if (program === "rm") this.notes = this.notes.filter((note) => note !== basename(path));
    return "";
  }

  async ownFolder(): Promise<string> {
    return "/own";
  }
}

function libvirtError(code: keyof typeof errorCodes): Error {
  return hostError(new LibvirtCallFailed("domainAgentCommand", errorCodes[code], 10, code));
}

describe("a guest whose file systems are held", () => {
  let guest: Guest;
  let host: KvmHost;
  beforeEach(() => {
    guest = new Guest();
    host = guest as unknown as KvmHost;
  });

  it("holds them throughout the work, and nothing is noted afterwards", async () => {
    const held = await whileHeld(host, domain, async () => guest.frozen);
    assert.deepEqual([held, guest.frozen, guest.notes], [{ result: true, throughout: true }, false, []]);
  });

  it("and which is paused meanwhile keeps its note until it goes on and lets go", async () => {
    for (const state of [domainState.paused, domainState.suspended]) {
      const pausing = whileHeld(host, domain, async () => {
        guest.state = state;
      });
      await assert.rejects(pausing, HypervisorFailed);
      await assert.rejects(thawForgotten(host));
      assert.deepEqual([guest.frozen, guest.notes.length], [true, 1]);
      guest.state = domainState.running;
      assert.deepEqual(await thawForgotten(host), [domain.uuid]);
      assert.deepEqual([guest.frozen, guest.notes], [false, []]);
    }
  });

  it("and which ends meanwhile holds nothing any more", async () => {
    for (const state of [domainState.shutoff, domainState.crashed]) {
      guest = new Guest();
      const held = await whileHeld(guest as unknown as KvmHost, domain, async () => {
        guest.state = state;
      });
      assert.deepEqual([held.throughout, guest.notes], [false, []]);
    }
    guest.notes.push(`${domain.uuid}.0`);
    assert.deepEqual(await thawForgotten(guest as unknown as KvmHost), []);
    assert.deepEqual(guest.notes, []);
  });

  it("too slowly is QuiesceFailed, with a note while it does not let go either", async () => {
    for (const command of ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]) guest.silentOn.add(command);
    await assert.rejects(
      whileHeld(host, domain, () => assert.fail("It was not held.")),
      QuiesceFailed,
    );
    assert.equal(guest.notes.length, 1);
  });

  it("tells what went wrong with the work, also where it does not let go", async () => {
    const failing = () => whileHeld(host, domain, () => Promise.reject(new PrimaryStorageFull("full")));
    await assert.rejects(failing(), PrimaryStorageFull);
    assert.deepEqual([guest.frozen, guest.notes], [false, []]);
    guest.silentOn.add("guest-fsfreeze-thaw");
    await assert.rejects(failing(), PrimaryStorageFull);
    assert.deepEqual([guest.frozen, guest.notes.length], [true, 1]);
  });
});
