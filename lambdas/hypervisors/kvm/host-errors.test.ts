import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { isRetryable, VolumeNotFound } from "../../domain/errors.ts";
import { ForbiddenAddress } from "../../protocols/egress/endpoint.ts";
import {
  errorCodes,
  LibvirtCallFailed,
  LibvirtConnectionLost,
  LibvirtLoginRequired,
} from "../../protocols/libvirt/errors.ts";
import { NbdConnectionLost, NbdRequestFailed } from "../../protocols/nbd/errors.ts";
import { SshHostKeyMismatch, SshKeyUnusable, SshRefused, SshUnreachable } from "../../protocols/ssh/errors.ts";
import { commandError, hostError, isTimeOut, libvirtCode, onHost } from "./host-errors.ts";

function libvirtError(code: keyof typeof errorCodes, text = "why"): LibvirtCallFailed {
  return new LibvirtCallFailed("domainCreate", errorCodes[code], 10, text);
}

function ended(code: number | undefined, stderr = "", signal?: string) {
  return { code, signal, stdout: "", stderr };
}

describe("an error of a host", () => {
  const cases: [Error, string, boolean][] = [
    [new SshUnreachable("x"), "HypervisorUnavailable", true],
    [new SshHostKeyMismatch("h", "ssh-ed25519", "SHA256:a", []), "HypervisorMisconfigured", false],
    [new SshKeyUnusable("x"), "SecretUnusable", false],
    [new SshRefused("x"), "HypervisorFailed", true],
    [new ForbiddenAddress("x"), "EndpointForbidden", false],
    [new LibvirtConnectionLost("x"), "HypervisorUnavailable", true],
    [new LibvirtLoginRequired("x"), "HypervisorMisconfigured", false],
    [libvirtError("OPERATION_DENIED"), "HypervisorMisconfigured", false],
    [libvirtError("RESOURCE_BUSY"), "HypervisorUnavailable", true],
    [libvirtError("OPERATION_FAILED"), "HypervisorFailed", true],
    [libvirtError("OPERATION_FAILED", "cannot write: No space left on device"), "PrimaryStorageFull", false],
    [libvirtError("SYSTEM_ERROR", "cannot open: Permission denied"), "HypervisorMisconfigured", false],
    [new NbdConnectionLost("x"), "HypervisorUnavailable", true],
    [new NbdRequestFailed("EIO", "x"), "HypervisorFailed", true],
  ];

  it("is one that a caller can act on, with its own words and the original as its cause", () => {
    for (const [error, name, retryable] of cases) {
      const found = hostError(error);
      assert.deepEqual([found.name, isRetryable(found), found.cause], [name, retryable, error]);
      assert.ok(found.message.includes(error.message));
    }
  });

  it("stays as it is when it is one of Snapferry's, or a bug", async () => {
    for (const error of [new VolumeNotFound("x"), new TypeError("x")]) {
      assert.equal(hostError(error), error);
      await assert.rejects(
        onHost(() => Promise.reject(error)),
        error,
      );
    }
    assert.equal(hostError("text").message, "text");
  });

  it("has libvirt's code", () => {
    assert.equal(libvirtCode(hostError(libvirtError("NO_DOMAIN"))), "NO_DOMAIN");
    assert.equal(libvirtCode(hostError(new SshUnreachable("x"))), undefined);
    assert.equal(libvirtCode(undefined), undefined);
  });
});

describe("a program of a host that failed", () => {
  it("is told by name, with what it said", () => {
    const shown = (result: ReturnType<typeof ended>) => {
      const { name, message } = commandError("qemu-img info", result);
      return `${name}: ${message}`;
    };
    assert.equal(
      shown(ended(1, "no such image\n")),
      "HypervisorFailed: qemu-img info failed on the host: no such image",
    );
    assert.equal(shown(ended(3)), "HypervisorFailed: qemu-img info failed on the host: ended with code 3");
    assert.equal(
      shown(ended(undefined, "", "SIGTERM")),
      "HypervisorFailed: qemu-img info failed on the host: ended by SIGTERM",
    );
    assert.equal(shown(ended(127)), "HypervisorMisconfigured: The host has no program qemu-img.");
    assert.equal(shown(ended(126)), "HypervisorMisconfigured: The user may not run qemu-img on the host.");
    assert.match(shown(ended(124)), /^HypervisorUnavailable: .* took too long/);
    assert.match(shown(ended(undefined, "", "SIGKILL")), /^HypervisorUnavailable/);
    assert.ok(isTimeOut(commandError("qemu-img info", ended(124))));
    assert.match(shown(ended(1, "write: Disk quota exceeded")), /^PrimaryStorageFull/);
    assert.match(shown(ended(1, "open: Read-only file system")), /^HypervisorMisconfigured/);
  });
});
