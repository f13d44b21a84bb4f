import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { HypervisorMisconfigured, PathOutsideDirectory } from "../domain/errors.ts";
import { hypervisorOf } from "./hypervisors.ts";

describe("the directories that a tenant may register", () => {
  let root: string;
  before(async () => {
    root = await mkdtemp(path.join(tmpdir(), "snapferry-roots-"));
    for (const tenant of ["acme", "bolt"]) await mkdir(path.join(root, tenant, "volumes"), { recursive: true });
    process.env.FILE_ROOTS = path.join(root, "{tenant}");
  });
  after(async () => {
    delete process.env.FILE_ROOTS;
    await rm(root, { recursive: true });
  });
  const check = (tenant: string, owner: string) =>
    hypervisorOf({ tenant, settings: { kind: "file", directory: path.join(root, owner, "volumes") } }).then(
      (hypervisor) => hypervisor.check(),
    );

  it("are its own where file.roots says {tenant}", async () => {
    await check("acme", "acme");
    await assert.rejects(
      check("acme", "bolt"),
      (error) => error instanceof HypervisorMisconfigured || error instanceof PathOutsideDirectory,
    );
  });
});
