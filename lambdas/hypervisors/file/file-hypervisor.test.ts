import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import {
  link,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  unlink,
  utimes,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import fc from "fast-check";
import { type HypervisorSubject, hypervisorContract } from "../../../test/contract/hypervisor.ts";
import { TrackingHypervisor } from "../../../test/support/tracking-hypervisor.ts";
import {
  HypervisorMisconfigured,
  PathOutsideDirectory,
  QuiesceFailed,
  VolumeChangedDuringCopy,
  VolumeNameTaken,
  VolumeNotFound,
} from "../../domain/errors.ts";
import { FileHypervisor } from "./file-hypervisor.ts";

const gibibyte = 1024 ** 3;

class Subject implements HypervisorSubject {
  readonly root: string;
  readonly directory: string;
  readonly hypervisor: FileHypervisor;

  constructor(root: string) {
    this.root = root;
    this.directory = join(root, "volumes");
    this.hypervisor = new FileHypervisor({ directory: this.directory, allowedRoots: [root] });
  }

  static async make(): Promise<Subject> {
    const subject = new Subject(await mkdtemp(join(tmpdir(), "file-hypervisor-")));
    await mkdir(subject.directory);
    return subject;
  }

  path(...names: string[]): string {
    return join(this.directory, ...names);
  }

  async makeVolume(name: string, sizeBytes: number): Promise<string> {
    await writeFile(this.path(name), "", { flag: "wx" });
    await truncate(this.path(name), sizeBytes);
    return name;
  }

  async writeVolume(externalId: string, data: Uint8Array, offset: number): Promise<void> {
    await using file = await open(this.path(externalId), "r+");
    await file.write(data, 0, data.length, offset);
  }

  async readVolume(externalId: string): Promise<Buffer> {
    return readFile(this.path(externalId));
  }

  async countSnapshots(): Promise<number> {
    return (await readdir(this.path(".snapferry", "snapshots")).catch(() => [])).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.root, { recursive: true, force: true });
  }
}

hypervisorContract("a directory of files", Subject.make);

hypervisorContract("a directory of files whose writes are tracked", async () => {
  const subject = await Subject.make();
  const hypervisor = new TrackingHypervisor(subject.hypervisor);
  return {
    hypervisor,
    makeVolume: (name, sizeBytes) => subject.makeVolume(name, sizeBytes),
    writeVolume(externalId, data, offset) {
      hypervisor.recordWrite(externalId, { offset, length: data.length });
      return subject.writeVolume(externalId, data, offset);
    },
    readVolume: (externalId) => subject.readVolume(externalId),
    countSnapshots: () => subject.countSnapshots(),
    [Symbol.asyncDispose]: () => subject[Symbol.asyncDispose](),
  };
});

describe("the file hypervisor", () => {
  let subject: Subject;
  let hypervisor: FileHypervisor;
  beforeEach(async () => {
    subject = await Subject.make();
    hypervisor = subject.hypervisor;
  });
  afterEach(async () => {
    await subject[Symbol.asyncDispose]();
  });

  const take = (externalId: string, snapshotId = "snap_1") =>
    hypervisor.takeSnapshots([{ externalId, snapshotId }], { quiesce: false });

  describe("when it is registered", () => {
    const check = (directory: string, allowedRoots: string[]) =>
      new FileHypervisor({ directory, allowedRoots }).check();

    test("refuses what is no directory, or not an allowed one, in words", async () => {
      await writeFile(subject.path("file"), "");
      await assert.rejects(check(subject.path("missing"), [subject.root]), HypervisorMisconfigured);
      await assert.rejects(check(subject.path("file"), [subject.root]), HypervisorMisconfigured);
      await assert.rejects(check("volumes", [subject.root]), HypervisorMisconfigured);
      await assert.rejects(check(subject.directory, []), /outside of the directories that are allowed \(none\)/);
      await assert.rejects(
        check(subject.directory, [`${subject.directory}-other`, "/nowhere"]),
        HypervisorMisconfigured,
      );
      await check(subject.directory, [subject.directory]);
    });

    test("refuses a link that leads out of the allowed roots", async () => {
      const elsewhere = await mkdtemp(join(tmpdir(), "elsewhere-"));
      try {
        await symlink(elsewhere, join(subject.root, "linked"));
        await assert.rejects(check(join(subject.root, "linked"), [subject.root]), HypervisorMisconfigured);
      } finally {
        await rm(elsewhere, { recursive: true });
      }
    });
  });

  describe("stays in its directory", () => {
    test("lists plain files only, and says why a link is not supported", async () => {
      await subject.makeVolume("disk", 10);
      await writeFile(subject.path(".hidden"), "");
      await mkdir(subject.path("folder"));
      await symlink("/etc/passwd", subject.path("link"));
      const listed = [];
      for await (const { name, unsupported } of hypervisor.listVolumes())
        listed.push([name, unsupported !== undefined]);
      assert.deepEqual(listed, [
        ["disk", false],
        ["link", true],
      ]);
      await assert.rejects(hypervisor.describeVolume("folder"), VolumeNotFound);
    });

    for (const name of ["..", "../other", "/etc/passwd", "a/b", "a\0b", ".snapferry", "", "x".repeat(256)]) {
      test(`${JSON.stringify(name.slice(0, 20))} is no name of a volume`, async () => {
        await assert.rejects(hypervisor.describeVolume(name), PathOutsideDirectory);
        await assert.rejects(take(name), PathOutsideDirectory);
        await assert.rejects(hypervisor.createVolume({ restoreId: "job_1", name, sizeBytes: 1 }), PathOutsideDirectory);
      });
    }

    for (const id of ["..", "../other", "/etc", "a/b", "a\0b", "", "a.b"]) {
      test(`${JSON.stringify(id)} is no id`, async () => {
        await subject.makeVolume("disk", 10);
        await assert.rejects(take("disk", id), PathOutsideDirectory);
        await assert.rejects(hypervisor.createVolume({ restoreId: id, name: "x", sizeBytes: 1 }), PathOutsideDirectory);
      });
    }

    test("install paths that are not its own are refused", async () => {
      await subject.makeVolume("disk", 10);
      const own = hypervisor.plannedInstallPath({ externalId: "disk", snapshotId: "snap_1" });
      const foreign = [
        "/etc/passwd",
        subject.path("disk"),
        `${own}/../../../disk`,
        own.replace(".raw", ""),
        `${own}/x.raw`,
        "",
      ];
      for (const installPath of foreign) {
        await assert.rejects(hypervisor.deleteSnapshot(installPath), PathOutsideDirectory);
        await assert.rejects(hypervisor.openExport({ snapshotId: "snap_1", installPath }), PathOutsideDirectory);
      }
      assert.equal((await readFile(subject.path("disk"))).length, 10);
    });

    test("no text as an install path leads anywhere else", async () => {
      const text = fc.oneof(fc.string(), fc.constantFrom("..", ".", "/", ".raw", ".snapferry", "snapshots"));
      await fc.assert(
        fc.asyncProperty(fc.array(text, { maxLength: 6 }), async (parts) => {
          const installPath = subject.path(".snapferry", "snapshots", parts.join("/"));
          if (/^[A-Za-z0-9_-]+\.raw$/.test(parts.join("/"))) return;
          await assert.rejects(hypervisor.deleteSnapshot(installPath), PathOutsideDirectory);
        }),
        { numRuns: 200 },
      );
    });

    test("links in place of volumes and of its own folders are not followed", async () => {
      const elsewhere = join(subject.root, "elsewhere");
      await mkdir(join(elsewhere, "snapshots"), { recursive: true });
      await writeFile(join(elsewhere, "secret"), "secret");
      await symlink(join(elsewhere, "secret"), subject.path("link"));
      await assert.rejects(take("link"), PathOutsideDirectory);
      await subject.makeVolume("disk", 10);
      await rm(subject.path(".snapferry"), { recursive: true });
      await symlink(elsewhere, subject.path(".snapferry"));
      await assert.rejects(take("disk"), PathOutsideDirectory);
      await writeFile(join(elsewhere, "snapshots", "snap_1.raw"), "other");
      const installPath = subject.path(".snapferry", "snapshots", "snap_1.raw");
      await assert.rejects(hypervisor.deleteSnapshot(installPath), PathOutsideDirectory);
      await assert.rejects(hypervisor.openExport({ snapshotId: "snap_1", installPath }), PathOutsideDirectory);
      assert.deepEqual(await readdir(join(elsewhere, "snapshots")), ["snap_1.raw"]);
    });

    test("a link in place of a snapshot is not followed", async () => {
      await subject.makeVolume("disk", 10);
      const [taken] = await take("disk");
      await unlink(taken!.installPath);
      await symlink(subject.path("disk"), taken!.installPath);
      await assert.rejects(hypervisor.openExport(taken!), PathOutsideDirectory);
    });
  });

  describe("copies", () => {
    test("100 GiB of holes in no time and no room", async () => {
      await subject.makeVolume("sparse", 100 * gibibyte);
      await subject.writeVolume("sparse", Buffer.from("in the middle"), 50 * gibibyte);
      const started = performance.now();
      const [taken] = await take("sparse");
      const descriptor = await hypervisor.openExport(taken!);
      const extents = [];
      for await (const extent of hypervisor.extents(descriptor, { offset: 0, length: 100 * gibibyte }))
        extents.push(extent);
      assert.ok(performance.now() - started < 1_000);
      assert.deepEqual(extents, [{ offset: 50 * gibibyte, length: 4096 }]);
      assert.ok(taken!.physicalBytes <= 64 * 1024);
      assert.ok((await stat(taken!.installPath)).blocks * 512 <= 64 * 1024);
    });

    test("written zeros as holes", async () => {
      const content = Buffer.concat([randomBytes(70_000), Buffer.alloc(8_000_000), randomBytes(5)]);
      await writeFile(subject.path("disk"), content);
      const [taken] = await take("disk");
      assert.deepEqual(await readFile(taken!.installPath), content);
      assert.ok(taken!.physicalBytes < 300_000);
    });

    test("any content exactly", async () => {
      let n = 0;
      const piece = fc.oneof(
        fc.integer({ min: 0, max: 200_000 }).map((length) => Buffer.alloc(length)),
        fc.integer({ min: 1, max: 200_000 }).map((length) => randomBytes(length)),
      );
      await fc.assert(
        fc.asyncProperty(fc.array(piece, { maxLength: 6 }), async (pieces) => {
          n += 1;
          await writeFile(subject.path(`disk${n}`), Buffer.concat(pieces));
          const [taken] = await take(`disk${n}`, `snap_${n}`);
          assert.deepEqual(await readFile(taken!.installPath), Buffer.concat(pieces));
        }),
        { numRuns: 20 },
      );
    });

    test("are refused for a volume that is written to meanwhile, and leave nothing", async () => {
      await writeFile(subject.path("busy"), randomBytes(64 * 1024 * 1024));
      let isDone = false;
      const writing = (async () => {
        while (!isDone) await subject.writeVolume("busy", Buffer.from("x"), 0);
      })();
      await assert.rejects(take("busy"), VolumeChangedDuringCopy);
      isDone = true;
      await writing;
      assert.equal(await subject.countSnapshots(), 0);
    });

    test("claim no consistency, and writes cannot be held", async () => {
      await subject.makeVolume("disk", 10);
      const [taken] = await take("disk");
      assert.equal(taken!.consistency, "none");
      const request = [{ externalId: "disk", snapshotId: "snap_2" }];
      await assert.rejects(hypervisor.takeSnapshots(request, { quiesce: true }), QuiesceFailed);
    });

    test("that were interrupted go with the snapshot", async () => {
      await subject.makeVolume("disk", 10);
      const [taken] = await take("disk");
      await writeFile(subject.path(".snapferry", "snapshots", "snap_1.0123.partial"), "");
      await hypervisor.deleteSnapshot(taken!.installPath);
      assert.equal(await subject.countSnapshots(), 0);
    });
  });

  describe("publishes", () => {
    const volume = { restoreId: "job_1", name: "restored", sizeBytes: 10 };

    test("again when the worker died before it took the temporary name away", async () => {
      await hypervisor.createVolume(volume);
      const temporary = subject.path(".snapferry", "restores", "job_1.raw");
      await hypervisor.publishVolume(volume);
      await link(subject.path("restored"), temporary);
      await hypervisor.publishVolume(volume);
      assert.deepEqual((await readdir(subject.path(".snapferry", "restores"))).sort(), ["job_1.published"]);
    });

    test("but does not take another file of the same name for its own", async () => {
      await hypervisor.createVolume(volume);
      await hypervisor.publishVolume(volume);
      await rename(subject.path("restored"), subject.path("moved"));
      await writeFile(subject.path("restored"), "foreign");
      await assert.rejects(hypervisor.publishVolume(volume), VolumeNotFound);
      await assert.rejects(hypervisor.createVolume(volume), VolumeNameTaken);
      assert.equal(await readFile(subject.path("restored"), "utf8"), "foreign");
    });

    test("and a published volume that was written to is still its own", async () => {
      await hypervisor.createVolume(volume);
      await hypervisor.publishVolume(volume);
      await subject.writeVolume("restored", Buffer.from("guest"), 0);
      await utimes(subject.path("restored"), new Date(0), new Date(0));
      await hypervisor.publishVolume(volume);
    });

    test("a volume that nobody created is VolumeNotFound", async () => {
      await assert.rejects(hypervisor.openWriter(volume), VolumeNotFound);
      await assert.rejects(hypervisor.publishVolume(volume), VolumeNotFound);
    });

    test("no write outside of the volume's size is taken", async () => {
      await hypervisor.createVolume(volume);
      await using writer = await hypervisor.openWriter(volume);
      await assert.rejects(writer.write(Buffer.alloc(2), 9), RangeError);
    });
  });
});
