/** Whole backups and restores on versitygw while it misbehaves and workers die: `npm run test:s3`. */
import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { RepositoryDamaged } from "../../lambdas/domain/errors.ts";
import { publishRoot } from "../../lambdas/repository/publish.ts";
import type { S3ObjectStore } from "../../lambdas/repository/s3-object-store.ts";
import { verifyBackup } from "../../lambdas/repository/verify.ts";
import { startVersitygw } from "../../local/versitygw.ts";
import { storm } from "../contract/object-store-faults.ts";
import { backup, copyAll, never, planBackup, restore, SparseVolume, useGeometry } from "../support/repository.ts";
import type { Fault, ProxiedRequest } from "../support/s3-fault-proxy.ts";
import { connectS3Service } from "../support/s3-service.ts";
import type { CopyOrder } from "./interrupted-copy.ts";

const gateway = await startVersitygw();
const service = await connectS3Service(gateway);
after(async () => {
  await service.close();
  await gateway.stop();
});

const domain = "vol";
/** So that 3 MB are some hundred chunks, pages and packs. */
const geometry = { chunkBytes: 8192, pageChunks: 16, packBytes: 65_536 };

/** A volume of 4 MB, of which 3 MB are random and the rest is empty or repeats itself. */
function volumeContent(): Buffer {
  return Buffer.concat([randomBytes(3_000_000), Buffer.alloc(700_000), Buffer.alloc(300_000, "text ")]);
}

async function open() {
  const opened = await service.openFaulty();
  await useGeometry(opened.direct, domain, geometry);
  return opened;
}

/** The first read of every object brings wrong bytes, be it of a range or of the whole. */
function wrongOnce(): (request: ProxiedRequest) => Fault {
  const seen = new Set<string>();
  return ({ method, path }) => {
    if (method !== "GET" || !path.includes(`/${domain}/`) || seen.has(path)) return "pass";
    seen.add(path);
    return "corrupt-reply";
  };
}

describe("on versitygw", () => {
  test("a volume is backed up, backed up again by its changes, and comes back, while every request meets a fault", async () => {
    const { store, proxy } = await open();
    proxy.fault = storm();
    const content = volumeContent();
    const first = { store, domain, snapshotId: "snap1", jobId: "job1" };
    await backup(first, SparseVolume.of(content));
    const changed = Buffer.from(content);
    randomBytes(50_000).copy(changed, 1_000_000);
    const second = { store, domain, snapshotId: "snap2", jobId: "job2" };
    await backup(second, SparseVolume.of(changed), ["snap1"]);
    assert.deepEqual(await (await restore({ ...first, jobId: "job3" })).content(), content);
    assert.deepEqual(await (await restore({ ...second, jobId: "job4" })).content(), changed);
    assert.ok(proxy.requests.length > 200);
  });

  test("a read that brings wrong bytes once is read again, whatever object it is of", async () => {
    const { store, direct, proxy } = await open();
    const content = volumeContent();
    const target = { store: direct, domain, snapshotId: "snap", jobId: "job" };
    await backup(target, SparseVolume.of(content));
    proxy.fault = wrongOnce();
    assert.deepEqual(await (await restore({ ...target, store, jobId: "job2" })).content(), content);
  });

  test("bytes that stay wrong are damage, with the name of the object", async () => {
    const { store, direct, proxy } = await open();
    const target = { store: direct, domain, snapshotId: "snap", jobId: "job" };
    await backup(target, SparseVolume.of(volumeContent()));
    let damaged: string | undefined;
    proxy.fault = ({ method, path }) => {
      if (method !== "GET" || !path.includes("/packs/")) return "pass";
      damaged ??= path;
      return path === damaged ? "corrupt-reply" : "pass";
    };
    await assert.rejects(restore({ ...target, store, jobId: "job2" }), (error) => {
      assert.ok(error instanceof RepositoryDamaged, String(error));
      return true;
    });
    assert.ok(damaged);
  });

  test("a worker that is killed in the middle of the copy is followed by one that goes on from there", async () => {
    const { store, direct, proxy } = await open();
    const content = volumeContent();
    const ids = { domain, snapshotId: "snap", jobId: "job" };
    const target = { ...ids, store };
    const plan = await planBackup(target, SparseVolume.of(content));

    const worker = fork(join(import.meta.dirname, "interrupted-copy.ts"), { stdio: "inherit" });
    const ended = once(worker, "exit");
    let packs = 0;
    const hold = new Promise<void>(() => {});
    proxy.fault = ({ method, path }) => {
      if (method !== "PUT" || !path.includes("/packs/") || ++packs < 20) return "pass";
      worker.kill("SIGKILL");
      return hold;
    };
    const order: CopyOrder = {
      settings: { ...service.settings, endpoint: proxy.endpoint },
      bucket: service.bucket,
      prefix: (store as S3ObjectStore).fullKey(""),
      target: ids,
      plan,
      content: content.toString("base64"),
    };
    worker.send(order);
    assert.deepEqual(await ended, [null, "SIGKILL"]);

    proxy.fault = storm();
    const volume = SparseVolume.of(content);
    await copyAll(target, plan, volume, 2);
    await verifyBackup(target, { planHash: plan.planHash, until: never });
    await publishRoot(target, plan);
    assert.ok(
      volume.bytesRead < content.length * 0.9,
      `${volume.bytesRead} of ${content.length} bytes were read again`,
    );
    assert.deepEqual(await (await restore({ ...target, store: direct, jobId: "job2" })).content(), content);
  });
});
