/** Hypervisors of kind `file` on temporary directories, registered with the deployed API. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, open, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { jobKinds } from "../../lambdas/domain/job.ts";
import { openJobs } from "../../lambdas/tables/jobs.ts";
import { getSnapshot } from "../../lambdas/tables/snapshots.ts";
import { eventually, type TestCloud } from "./cloud.ts";
import { collectUntil, servicesOf } from "./workflows.ts";

export interface Region {
  readonly offset: number;
  readonly data: Uint8Array;
}

/** Bytes that do not compress, so that copying them takes requests and time. */
export function noise(length: number): Buffer {
  return randomBytes(length);
}

export class TestHypervisor {
  readonly directory: string;
  readonly id: string;
  readonly #cloud: TestCloud;
  readonly #tenant: string;

  private constructor(cloud: TestCloud, tenant: string, directory: string, id: string) {
    this.#cloud = cloud;
    this.#tenant = tenant;
    this.directory = directory;
    this.id = id;
  }

  static async register(cloud: TestCloud, tenant = "acme"): Promise<TestHypervisor> {
    const directory = await mkdtemp(path.join(tmpdir(), "snapferry-volumes-"));
    const { status, body } = await cloud.call("POST", "/hypervisors", {
      tenant,
      role: "admin",
      body: { kind: "file", directory },
    });
    assert.equal(status, 201, JSON.stringify(body));
    return new TestHypervisor(cloud, tenant, directory, body.id);
  }

  /** Writes a sparse volume of `size` bytes with these regions and has it discovered; answers its id. */
  async addVolume(name: string, size: number, regions: readonly Region[] = []): Promise<string> {
    const file = await open(path.join(this.directory, name), "w");
    try {
      await file.truncate(size);
      for (const { offset, data } of regions) await file.write(data, 0, data.length, offset);
    } finally {
      await file.close();
    }
    const discovered = await this.#cloud.call("POST", `/hypervisors/${this.id}/discover`, {
      tenant: this.#tenant,
      role: "admin",
    });
    assert.equal(discovered.status, 200, JSON.stringify(discovered.body));
    const { body } = await this.#cloud.call("GET", `/volumes?hypervisorId=${this.id}&limit=100`, {
      tenant: this.#tenant,
    });
    const volume = body.items.find((item: { name: string }) => item.name === name);
    assert.ok(volume, `${name} was not discovered`);
    return volume.id;
  }

  async change(name: string, regions: readonly Region[]): Promise<void> {
    const file = await open(path.join(this.directory, name), "r+");
    try {
      for (const { offset, data } of regions) await file.write(data, 0, data.length, offset);
    } finally {
      await file.close();
    }
  }

  /** SHA-256 of a volume that fits into memory. */
  async digest(name: string): Promise<string> {
    return createHash("sha256")
      .update(await readFile(path.join(this.directory, name)))
      .digest("hex");
  }

  /**
   * Removes the directory, once no job has anything left to do or to clean up there. Stores that its backups lie in have to be in
   * reach until then.
   */
  async remove(): Promise<void> {
    const settled = async () => (await this.#openJobs()).length === 0;
    if (!(await settled())) await collectUntil(this.#cloud, `the jobs of ${this.id} are closed`, settled);
    await rm(this.directory, { recursive: true, force: true });
  }

  async #openJobs(): Promise<string[]> {
    const { database } = await servicesOf(this.#cloud);
    const open: string[] = [];
    for (const kind of jobKinds)
      for await (const { tenant, id, snapshotId, target } of openJobs(database, kind)) {
        const snapshot = await getSnapshot(database, tenant, snapshotId);
        if (snapshot?.hypervisorId === this.id || target?.hypervisorId === this.id) open.push(id);
      }
    return open;
  }
}

/** Waits until the snapshot is in one of these states and answers it. */
export function snapshotIn(
  cloud: TestCloud,
  id: string,
  states: readonly string[],
  options: { tenant?: string; seconds?: number } = {},
) {
  const { tenant = "acme", seconds = 90 } = options;
  let last = "";
  return eventually(
    `${id} ${states.join(" or ")}`,
    async () => {
      const { body } = await cloud.call("GET", `/snapshots/${id}`, { tenant });
      last = body.state;
      return states.includes(last) ? body : undefined;
    },
    { seconds },
  ).catch((error: Error) => {
    throw new Error(`${error.message} (it is ${last})`);
  });
}

/** Waits until the job has ended and answers it. */
export function endedJob(cloud: TestCloud, id: string, options: { tenant?: string; seconds?: number } = {}) {
  const { tenant = "acme", seconds = 90 } = options;
  return eventually(
    `${id} has ended`,
    async () => {
      const { body } = await cloud.call("GET", `/jobs/${id}`, { tenant });
      return ["Succeeded", "Failed", "Cancelled"].includes(body.state) ? body : undefined;
    },
    { seconds },
  );
}
