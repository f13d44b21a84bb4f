import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { OperationRefused } from "../../domain/errors.ts";
import { errorCodes, LibvirtCallFailed } from "../../protocols/libvirt/errors.ts";
import { domainState } from "../../protocols/libvirt/flags.ts";
import type { KvmHost } from "./host.ts";
import { hostError } from "./host-errors.ts";
import { operateVm } from "./vm-operations.ts";

const { running, paused, shutdown, shutoff } = domainState;

/** A host with one VM, which libvirt refuses to shut down, and which is in these states one after the other. */
function hostWith(states: readonly number[]): KvmHost {
  const left = [...states];
  const call = async (name: string): Promise<unknown> => {
    if (name === "domainLookupByUuid") return { domain: { name: "web", uuid: "u", id: 1 } };
    if (name === "domainGetXml") return { xml: "<domain><name>web</name><uuid>u</uuid><devices/></domain>" };
    if (name === "domainGetState") return { state: left.length > 1 ? left.shift() : left[0] };
    throw hostError(new LibvirtCallFailed(name, errorCodes.OPERATION_INVALID, 10, "domain is not running"));
  };
  return { call } as unknown as KvmHost;
}

describe("a VM that is to stop, and that libvirt calls not running", () => {
  const stop = (states: readonly number[], until: number) =>
    operateVm(hostWith(states), "u", { operation: "stop" }, { until });

  it("has stopped when its guest was off before the agent had answered", async () => {
    const soon = Date.now() + 60_000;
    assert.deepEqual(await stop([running, shutdown, shutdown, shutoff], soon), { finished: true });
    assert.deepEqual(await stop([running, shutoff], soon), { finished: true });
  });

  it("is still stopping when QEMU is not off by the time that there is", async () => {
    assert.deepEqual(await stop([running, shutdown], Date.now() - 1), { finished: false });
  });

  it("is refused in libvirt's words when it is neither running nor off", async () => {
    for (const state of [paused, running])
      await assert.rejects(stop([running, state], Date.now() + 60_000), (error) => {
        assert.ok(error instanceof OperationRefused, String(error));
        assert.match(error.message, /not running/);
        return true;
      });
  });
});
