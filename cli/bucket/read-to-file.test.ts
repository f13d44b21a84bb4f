import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, beforeEach, describe, it } from "node:test";
import { domainKeys } from "../../lambdas/repository/layout.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, SparseVolume } from "../../test/support/repository.ts";
import { CliError } from "../exit-codes.ts";
import type { Terminal } from "../terminal.ts";
import { readToFile } from "./read-to-file.ts";

const MiB = 2 ** 20;
const size = 40 * MiB + 777;
const domain = "vol";

let store: MemoryObjectStore;
let content: Buffer;
let root: string;
let directory: string;
before(async () => {
  const volume = new SparseVolume(size);
  await volume.write(randomBytes(MiB), 3 * MiB + 5);
  await volume.write(randomBytes(1_000), size - 1_000);
  content = await volume.content();
  store = new MemoryObjectStore();
  await backup({ store, domain, snapshotId: "snap", jobId: "job" }, volume);
  root = await mkdtemp(path.join(tmpdir(), "snapferry-files-"));
});
after(() => rm(root, { recursive: true }));
beforeEach(async () => {
  directory = await mkdtemp(path.join(root, "run-"));
});

function terminal(onInterrupt: Terminal["onInterrupt"] = () => () => {}): Terminal {
  return { env: {}, out: () => {}, err: () => {}, interactive: false, readInput: async () => undefined, onInterrupt };
}

interface Options {
  readonly format?: "raw" | "qcow2";
  readonly force?: boolean;
  readonly salvage?: boolean;
  readonly from?: MemoryObjectStore;
  readonly onInterrupt?: Terminal["onInterrupt"];
}

function read(
  file: string,
  { format = "raw", force = false, salvage = false, from = store, onInterrupt }: Options = {},
) {
  const target = { format, path: file, force, salvage };
  return readToFile({ store: from, domain, snapshotId: "snap" }, target, terminal(onInterrupt));
}

/** A store whose only pack is gone. */
async function withoutPacks(): Promise<MemoryObjectStore> {
  const damaged = new MemoryObjectStore();
  for await (const { key } of store.list(""))
    if (!key.startsWith(domainKeys(domain).packs)) await damaged.put(key, (await store.get(key)) ?? new Uint8Array());
  return damaged;
}

function failsWith(exitCode: number, message: RegExp) {
  return (error: unknown) => {
    assert.ok(error instanceof CliError, String(error));
    assert.equal(error.exitCode, exitCode);
    assert.match(error.message, message);
    return true;
  };
}

describe("a snapshot in a file", () => {
  it("raw: has the volume's bytes and size, and takes no room for its zeros", async () => {
    const file = path.join(directory, "image");
    const result = await read(file);
    assert.deepEqual(result, { snapshotId: "snap", domain, file, format: "raw", sizeBytes: size, lost: [] });
    assert.ok((await readFile(file)).equals(content));
    const { blocks } = await stat(file);
    assert.ok(blocks * 512 < 3 * MiB, `${blocks * 512} bytes`);
    assert.deepEqual(await readdir(directory), ["image"]);
  });

  it("qcow2: is there under its name, small", async () => {
    const file = path.join(directory, "image.qcow2");
    await read(file, { format: "qcow2" });
    const bytes = await readFile(file);
    assert.equal(bytes.toString("latin1", 0, 4), "QFI\u00fb");
    assert.ok(bytes.includes(content.subarray(4 * MiB, 4 * MiB + 32)));
    assert.ok(bytes.length < 3 * MiB, `${bytes.length} bytes`);
    assert.deepEqual(await readdir(directory), ["image.qcow2"]);
  });

  it("replaces nothing without --force, and never what is no plain file", async () => {
    const file = path.join(directory, "image");
    await writeFile(file, "precious");
    await assert.rejects(read(file), failsWith(1, /--raw: .*image is there already.*--force/));
    assert.equal(await readFile(file, "utf8"), "precious");
    await read(file, { force: true });
    assert.ok((await readFile(file)).equals(content));
    await assert.rejects(read(directory, { force: true }), failsWith(1, /no plain file/));
    const device = path.join(directory, "device");
    await symlink("/dev/null", device);
    await assert.rejects(read(device, { force: true }), failsWith(1, /no plain file/));
    await assert.rejects(
      read(path.join(directory, "no", "where"), { format: "qcow2" }),
      failsWith(1, /--qcow2: .*ENOENT/),
    );
  });

  it("leaves alone what another run is writing", async () => {
    const file = path.join(directory, "image");
    await writeFile(`${file}.part`, "half");
    await assert.rejects(read(file), failsWith(1, /image\.part is there.*another run/));
    assert.equal(await readFile(`${file}.part`, "utf8"), "half");
    await read(file, { force: true });
    assert.deepEqual(await readdir(directory), ["image"]);
  });

  it("of a damaged backup is not kept, and the way to keep the rest is told", async () => {
    const from = await withoutPacks();
    await assert.rejects(
      read(path.join(directory, "image"), { from }),
      failsWith(5, /packs\/job\/.*Bytes .*--salvage/),
    );
    assert.deepEqual(await readdir(directory), []);
    await from.deleteEveryVersion([domainKeys(domain).root("snap")]);
    const rootless = read(path.join(directory, "image"), { from, salvage: true });
    await assert.rejects(rootless, failsWith(5, /roots\/snap\.$/));
    assert.deepEqual(await readdir(directory), []);
  });

  it("salvaged: what is lost is zeros and listed beside the file, and an earlier list is not replaced unasked", async () => {
    const file = path.join(directory, "image");
    const from = await withoutPacks();
    const result = await read(file, { from, salvage: true });
    assert.ok(result.lost.length > 0);
    assert.equal((await stat(file)).size, size);
    assert.ok((await readFile(file)).equals(Buffer.alloc(size)));
    const { lost, file: named } = JSON.parse(await readFile(`${file}.damage.json`, "utf8"));
    assert.deepEqual([lost, named], [result.lost, file]);
    await rm(file);
    await assert.rejects(read(file, { from, salvage: true }), failsWith(1, /image\.damage\.json is there already/));
    await read(file, { salvage: true, force: true });
    assert.deepEqual(await readdir(directory), ["image"]);
  });

  it("leaves no list of damage when the file cannot be kept in the end", async () => {
    const file = path.join(directory, "image");
    const from = new MemoryObjectStore({
      before: async (_operation, key) => {
        if (key.startsWith(domainKeys(domain).packs)) await writeFile(file, "somebody else's");
      },
    });
    for await (const { key } of store.list(""))
      if (!key.startsWith(domainKeys(domain).packs)) await from.put(key, (await store.get(key)) ?? new Uint8Array());
    await assert.rejects(read(file, { from, salvage: true }), failsWith(1, /image is there already/));
    assert.deepEqual(await readdir(directory), ["image"]);
  });

  it("is not begun for a volume that is larger than its format holds", async () => {
    const huge = new MemoryObjectStore();
    const volume = new SparseVolume(2 ** 51 + 512);
    await backup({ store: huge, domain, snapshotId: "snap", jobId: "job" }, volume);
    const file = path.join(directory, "image");
    await assert.rejects(read(file, { format: "qcow2", from: huge }), failsWith(1, /--qcow2: .*larger.*--raw/));
    assert.deepEqual(await readdir(directory), []);
  });

  it("is gone after Ctrl-C", async () => {
    const slow = new MemoryObjectStore({
      before: (operation) => {
        if (operation === "get") interrupt();
      },
    });
    for await (const { key } of store.list("")) await slow.put(key, (await store.get(key)) ?? new Uint8Array());
    let interrupt = () => {};
    let listening = 0;
    const onInterrupt: Terminal["onInterrupt"] = (callback) => {
      listening += 1;
      interrupt = callback;
      return () => void listening--;
    };
    await assert.rejects(
      read(path.join(directory, "image"), { from: slow, onInterrupt }),
      failsWith(130, /nothing was kept/),
    );
    assert.deepEqual(await readdir(directory), []);
    assert.equal(listening, 0);
  });
});
