import assert from "node:assert/strict";
import { beforeEach, describe, it } from "node:test";
import { HypervisorFailed } from "../../domain/errors.ts";
import { errorCodes, LibvirtCallFailed } from "../../protocols/libvirt/errors.ts";
import { domainState } from "../../protocols/libvirt/flags.ts";
import { DomainXml } from "./domain-xml.ts";
import type { KvmHost } from "./host.ts";
import { hostError } from "./host-errors.ts";
import { attachIso } from "./vm-operations-isos.ts";

const xml =
  "<domain><name>web</name><uuid>u</uuid><devices><disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk></devices></domain>";
const closed =
  "internal error: unable to execute QEMU command 'blockdev-remove-medium': Tray of device 'ide0-0-0' is not open";

/** A host with one VM that runs, whose drive is closed again so many times. */
class Host {
  closes = 0;
  /** Discs that were put in: as it runs, and in its definition. */
  readonly changes: string[] = [];

  async exec(): Promise<{ code: number }> {
    return { code: 0 };
  }

  async call(name: string, args: { xml: string }): Promise<unknown> {
    if (name === "domainGetXml") return { xml };
    if (this.closes-- > 0) throw hostError(new LibvirtCallFailed(name, errorCodes.INTERNAL_ERROR, 10, closed));
    this.changes.push(/file="([^"]+)"/.exec(args.xml)?.[1] ?? "");
    return {};
  }
}

describe("a disc that is put into the drive of a VM that runs", () => {
  let host: Host;
  const attach = (until: number) => {
    const vm = {
      domain: { name: "web", uuid: "u", id: 1 },
      definition: new DomainXml(xml),
      state: domainState.running,
      isActive: true,
    };
    return attachIso(host as unknown as KvmHost, vm, "/a.iso", until);
  };
  beforeEach(() => {
    host = new Host();
  });

  it("is tried again while the guest closes the drive", async () => {
    host.closes = 1;
    await attach(Date.now() + 60_000);
    assert.deepEqual(host.changes, ["/a.iso", "/a.iso"]);
  });

  it("and does not come in by the time that there is fails in words that name the drive and the way out, and changes nothing", async () => {
    host.closes = Number.POSITIVE_INFINITY;
    await assert.rejects(attach(Date.now() - 1), (error) => {
      assert.ok(error instanceof HypervisorFailed, String(error));
      assert.match(error.message, /closed the drive sda/);
      assert.match(error.message, /stop the VM and start it/);
      return true;
    });
    assert.deepEqual(host.changes, []);
  });
});
