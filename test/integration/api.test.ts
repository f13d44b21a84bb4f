import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { CreateSecretCommand } from "@aws-sdk/client-secrets-manager";
import { idempotently } from "../../lambdas/api/middleware/idempotency.ts";
import { newId } from "../../lambdas/domain/ids.ts";
import { type Answer, cloud, type TestCloud } from "../support/cloud.ts";
import { registerStore } from "../support/stores.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { servicesOf } from "../support/workflows.ts";

const absent = "01JD7QXN8ZK4V1TQ3C5M9R2WEY";

function assertProblem(answer: Answer, status: number, kind: string): void {
  assert.equal(answer.status, status, JSON.stringify(answer.body));
  assert.equal(answer.headers.get("content-type"), "application/problem+json");
  assert.equal(answer.body.type, `/problems/${kind}`);
  assert.equal(answer.body.status, status);
  for (const member of ["title", "detail", "instance", "requestId"])
    assert.equal(typeof answer.body[member], "string", member);
}

describe("the deployed API", () => {
  let test: TestCloud;
  let hypervisor: TestHypervisor;
  let volumeId: string;
  before(async () => {
    test = await cloud();
    hypervisor = await TestHypervisor.register(test);
    volumeId = await hypervisor.addVolume("api", 2 ** 20, [{ offset: 0, data: noise(1000) }]);
  });
  after(() => hypervisor?.remove());

  const create = (body: unknown = {}, headers: Record<string, string> = {}) =>
    test.call("POST", `/volumes/${volumeId}/snapshots`, { body, headers });

  async function raw(method: string, where: string, init: RequestInit = {}): Promise<Answer> {
    const response = await fetch(`${test.url}/v1${where}`, { method, ...init });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: text === "" ? undefined : JSON.parse(text) };
  }

  describe("who may call", () => {
    it("nobody without a valid token", async () => {
      for (const authorization of ["", "Bearer x", "Basic eDp5"]) {
        const answer = await raw("GET", "/jobs", { headers: authorization === "" ? {} : { authorization } });
        assertProblem(answer, 401, "unauthorized");
        const challenge =
          answer.headers.get("www-authenticate") ?? answer.headers.get("x-amzn-remapped-www-authenticate");
        assert.match(challenge ?? "", /^Bearer realm="snapferry"/);
      }
    });

    it("a reader looks and no more; only an administrator registers", async () => {
      const reader = { role: "reader" } as const;
      assert.equal((await test.call("GET", "/snapshots", reader)).status, 200);
      assertProblem(
        await test.call("POST", `/volumes/${volumeId}/snapshots`, { ...reader, body: {} }),
        403,
        "forbidden",
      );
      assertProblem(
        await test.call("POST", "/hypervisors", { body: { kind: "file", directory: "/" } }),
        403,
        "forbidden",
      );
      assertProblem(await test.call("DELETE", `/stores/store_${absent}`), 403, "forbidden");
    });

    it("another tenant's things are not there", async () => {
      const { body } = await create();
      const other = { tenant: "other", role: "admin" } as const;
      const paths = [
        ["GET", `/volumes/${volumeId}`],
        ["POST", `/volumes/${volumeId}/snapshots`],
        ["GET", `/snapshots/${body.snapshot.id}`],
        ["DELETE", `/snapshots/${body.snapshot.id}`],
        ["POST", `/snapshots/${body.snapshot.id}/backup`],
        ["GET", `/jobs/${body.job.id}`],
        ["POST", `/jobs/${body.job.id}/cancel`],
        ["GET", `/hypervisors/${hypervisor.id}`],
        ["POST", `/hypervisors/${hypervisor.id}/discover`],
        ["DELETE", `/hypervisors/${hypervisor.id}`],
      ] as const;
      for (const [method, where] of paths) assertProblem(await test.call(method, where, other), 404, "not-found");
      for (const list of ["/volumes", "/snapshots", "/jobs", "/hypervisors"])
        assert.deepEqual((await test.call("GET", list, other)).body.items, [], list);
    });
  });

  describe("problems", () => {
    it("name wrong and unknown fields", async () => {
      const answer = await create({ asyncBackup: "yes", asyncBakcup: true });
      assertProblem(answer, 400, "invalid-request");
      assert.deepEqual(answer.body.errors, [
        { pointer: "/asyncBackup", detail: 'must be true or false, not "yes"' },
        { pointer: "/asyncBakcup", detail: "is not a field of this request; did you mean asyncBackup?" },
      ]);
      assert.equal(answer.body.instance, `/v1/volumes/${volumeId}/snapshots`);
    });

    it("of bodies that are no JSON, too large or of another type", async () => {
      const authorization = `Bearer ${await test.token("acme", "operator")}`;
      const post = (body: string, type = "application/json") =>
        raw("POST", `/volumes/${volumeId}/snapshots`, { body, headers: { authorization, "content-type": type } });
      assertProblem(await post("{"), 400, "malformed-json");
      assertProblem(await post("[".repeat(100_000)), 400, "malformed-json");
      assertProblem(await post("null"), 400, "invalid-request");
      assertProblem(await post('{"__proto__":{}}'), 400, "invalid-request");
      assertProblem(await post(JSON.stringify({ name: "x".repeat(300_000) })), 413, "too-large");
      assertProblem(await post("{}", "text/plain"), 415, "unsupported-media-type");
    });

    it("of unknown paths, methods, ids and references", async () => {
      assertProblem(await test.call("GET", "/nothing"), 404, "not-found");
      const put = await test.call("PUT", "/snapshots", { body: {} });
      assertProblem(put, 405, "method-not-allowed");
      assert.equal(put.headers.get("allow"), "GET");
      for (const id of ["x", `snap_${absent}`])
        assertProblem(await test.call("GET", `/snapshots/${id}`), 404, "not-found");
      const answer = await create({ storeId: `store_${absent}` });
      assertProblem(answer, 404, "not-found");
      assert.equal(answer.body.errors[0].pointer, "/storeId");
    });
  });

  describe("making a snapshot", () => {
    it("is answered with job, snapshot and Location before anything is done", async () => {
      const { status, headers, body } = await create({
        name: "n",
        description: "d",
        tags: { a: "b" },
        asyncBackup: true,
      });
      assert.equal(status, 202);
      assert.deepEqual([body.job.state, body.snapshot.state], ["Queued", "Allocated"]);
      assert.equal(headers.get("location"), `/v1/jobs/${body.job.id}`);
      assert.equal(body.snapshot.name, "n");
      assert.deepEqual(body.snapshot.tags, { a: "b" });
      assert.equal(body.job.snapshotId, body.snapshot.id);
      const job = await endedJob(test, body.job.id);
      assert.equal(job.state, "Succeeded");
      assert.match(job.backupJobId, /^job_/);
      const snapshot = await snapshotIn(test, body.snapshot.id, ["BackedUp"]);
      assert.equal(snapshot.bytes.logical, 2 ** 20);
      assert.ok(snapshot.bytes.stored > 0);
      for (const internal of ["tenant", "hypervisorTenant", "lastChange", "updateCount"])
        assert.ok(!(internal in snapshot), internal);
    });

    it("waits as long as it is asked to", async () => {
      const answer = await create({ asyncBackup: true }, { prefer: "wait=20" });
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
      assert.equal(answer.headers.get("preference-applied"), "wait=20");
      assert.equal(answer.body.job.state, "Succeeded");
      const job = await test.call("GET", `/jobs/${answer.body.job.backupJobId}`, { headers: { prefer: "wait=1000" } });
      assert.equal(job.headers.get("preference-applied"), "wait=25");
      assert.equal(job.body.state, "Succeeded");
    });
  });

  describe("an idempotency key", () => {
    it("gives 50 requests at once the same answer and one snapshot", async () => {
      const key = randomUUID();
      const name = `once-${key}`;
      const all = await Promise.all(Array.from({ length: 50 }, () => create({ name }, { "idempotency-key": key })));
      const [first] = all;
      for (const answer of all) {
        assert.equal(answer.status, 202, JSON.stringify(answer.body));
        assert.deepEqual(answer.body, first?.body);
        assert.equal(answer.headers.get("location"), first?.headers.get("location"));
      }
      const { body } = await test.call("GET", `/snapshots?volumeId=${volumeId}&limit=100`);
      assert.equal(body.items.filter((item: { name?: string }) => item.name === name).length, 1);
    });

    it("with another body is a 422; of another tenant or path it is another key", async () => {
      const key = { "idempotency-key": randomUUID() };
      const first = await create({ name: "a", tags: { x: "1", y: "2" } }, key);
      assert.deepEqual(
        (await create({ tags: { y: "2", x: "1" }, name: "a", asyncBackup: false }, key)).body,
        first.body,
      );
      assertProblem(await create({ name: "b" }, key), 422, "idempotency-key-reused");
      const second = await hypervisor.addVolume("api-2", 1000);
      const elsewhere = await test.call("POST", `/volumes/${second}/snapshots`, { body: { name: "b" }, headers: key });
      assert.equal(elsewhere.status, 202);
    });

    it("whose first request died before it had written anything is finished by the next, under the same ids", async () => {
      const key = randomUUID();
      const ids = { snapshot: newId("snapshot"), job: newId("job") };
      const request = {
        caller: { tenant: "acme", role: "operator" },
        method: "POST",
        path: `/volumes/${volumeId}/snapshots`,
        body: { name: "finished", asyncBackup: true, storeId: "default", tags: {}, verify: "checksum", full: false },
        idempotencyKey: key,
      } as const;
      const dying = idempotently(await servicesOf(test), request, ids, () => Promise.reject(new Error("died")));
      await assert.rejects(dying, /died/);
      const { status, body } = await create({ name: "finished", asyncBackup: true }, { "idempotency-key": key });
      assert.equal(status, 202, JSON.stringify(body));
      assert.deepEqual({ snapshot: body.snapshot.id, job: body.job.id }, ids);
      assert.equal((await endedJob(test, ids.job)).state, "Succeeded");
    });

    it("is not used up by a refusal", async () => {
      const key = { "idempotency-key": randomUUID() };
      assertProblem(await create({ nmae: "x" }, key), 400, "invalid-request");
      assert.equal((await create({ name: "x" }, key)).status, 202);
    });
  });

  describe("lists", () => {
    it("are cut into pages, newest first, without gaps", async () => {
      const all = (await test.call("GET", `/snapshots?volumeId=${volumeId}&limit=100`)).body.items;
      assert.ok(all.length > 3);
      const ids = all.map((item: { id: string }) => item.id);
      assert.deepEqual(ids, ids.toSorted().reverse());
      const paged: string[] = [];
      let cursor = "";
      do {
        const { body } = await test.call(
          "GET",
          `/snapshots?volumeId=${volumeId}&limit=2${cursor && `&cursor=${cursor}`}`,
        );
        assert.ok(body.items.length <= 2);
        paged.push(...body.items.map((item: { id: string }) => item.id));
        cursor = body.nextCursor ?? "";
      } while (cursor !== "");
      assert.deepEqual(paged, ids);
    });

    it("are filtered, and refuse what they do not know", async () => {
      const { body } = await test.call("GET", "/jobs?kind=create-snapshot&state=Succeeded&limit=100");
      assert.ok(body.items.length > 0);
      for (const item of body.items) assert.deepEqual([item.kind, item.state], ["create-snapshot", "Succeeded"]);
      for (const query of ["limit=0", "limit=101", "limit=x", "cursor=x", "state=nope", "limti=1", "limit=1&limit=2"])
        assertProblem(await test.call("GET", `/jobs?${query}`), 400, "invalid-request");
    });
  });

  describe("deleting and restoring", () => {
    it("a snapshot is gone in the end, and a second request joins the first", async () => {
      const { body } = await create({}, { prefer: "wait=25" });
      const where = `/snapshots/${body.snapshot.id}`;
      await snapshotIn(test, body.snapshot.id, ["BackedUp"]);
      const [first, second] = [await test.call("DELETE", where), await test.call("DELETE", where)];
      assert.equal(first.status, 202);
      if (second.status === 202) assert.equal(second.body.job.id, first.body.job.id);
      else assertProblem(second, 404, "snapshot-is-destroyed");
      await snapshotIn(test, body.snapshot.id, ["Destroyed"]);
      assertProblem(await test.call("DELETE", where), 404, "snapshot-is-destroyed");
      const restore = { target: { hypervisorId: hypervisor.id, name: "again" } };
      assertProblem(await test.call("POST", `${where}/restore`, { body: restore }), 409, "snapshot-is-not-backed-up");
    });

    it("nothing is overwritten, and names lead nowhere else", async () => {
      const { body } = await create({}, { prefer: "wait=25" });
      await snapshotIn(test, body.snapshot.id, ["BackedUp"]);
      const restore = (name: string, hypervisorId = hypervisor.id) =>
        test.call("POST", `/snapshots/${body.snapshot.id}/restore`, { body: { target: { hypervisorId, name } } });
      assertProblem(await restore("api"), 409, "volume-name-taken");
      for (const name of ["", "../x", ".x", "a/b", "x".repeat(256)]) {
        const answer = await restore(name);
        assertProblem(answer, 400, "invalid-request");
        assert.equal(answer.body.errors[0].pointer, "/target/name");
      }
      assertProblem(await restore("x", `hyp_${absent}`), 404, "not-found");
      for (const [more, status, pointer] of [
        [{ pool: "default" }, 400, "/target/pool"],
        [{ newVm: { name: "web" } }, 400, "/target/newVm"],
        [{ attachToVmId: `vm_${absent}` }, 404, "/target/attachToVmId"],
        [{ attachToVmId: `vm_${absent}`, newVm: { name: "web" } }, 400, "/target/newVm"],
        [{ newVm: { name: "a\u0000b" } }, 400, "/target/newVm/name"],
      ] as const) {
        const target = { hypervisorId: hypervisor.id, name: "x", ...more };
        const answer = await test.call("POST", `/snapshots/${body.snapshot.id}/restore`, { body: { target } });
        assert.deepEqual(
          [answer.status, answer.body.errors[0].pointer],
          [status, pointer],
          JSON.stringify(answer.body),
        );
      }
      assertProblem(
        await test.call("POST", `/snapshots/${body.snapshot.id}/backup`, { body: {} }),
        409,
        "snapshot-is-backed-up",
      );
    });

    it("of restores to one name at once, one begins", async () => {
      const { body } = await create({}, { prefer: "wait=25" });
      await snapshotIn(test, body.snapshot.id, ["BackedUp"]);
      const target = { hypervisorId: hypervisor.id, name: `raced-${randomUUID()}` };
      const restore = () => test.call("POST", `/snapshots/${body.snapshot.id}/restore`, { body: { target } });
      const all = await Promise.all([restore(), restore(), restore(), restore()]);
      const [begun, ...others] = all.filter(({ status }) => status === 202);
      assert.ok(begun);
      assert.deepEqual(others, []);
      for (const answer of all) if (answer !== begun) assertProblem(answer, 409, "volume-name-taken");
      assert.equal((await endedJob(test, begun.body.job.id)).state, "Succeeded");
      const volume = await test.call("GET", `/volumes/${begun.body.volume.id}`);
      assert.equal(volume.body.status, "available");
    });

    it("an ended job cannot be cancelled", async () => {
      const { body } = await create({ asyncBackup: true }, { prefer: "wait=25" });
      assertProblem(await test.call("POST", `/jobs/${body.job.id}/cancel`), 409, "job-has-ended");
    });
  });

  describe("hypervisors", () => {
    const admin = { role: "admin", tenant: "registrar" } as const;
    const register = (body: unknown) => test.call("POST", "/hypervisors", { ...admin, body });

    it("are refused where they cannot work", async () => {
      for (const directory of ["/does/not/exist", "relative", "/etc/hostname", "/a\u0000b"]) {
        const answer = await register({ kind: "file", directory });
        assertProblem(answer, 400, "invalid-request");
        assert.equal(answer.body.errors[0].pointer, "/directory");
      }
      assertProblem(await register({ kind: "kvm", directory: "/tmp" }), 400, "invalid-request");
    });

    it("give volumes to tenants by rule, find what is new, and miss what is gone", async () => {
      const directory = await mkdtemp(path.join(tmpdir(), "snapferry-rules-"));
      for (const name of ["red-1", "blue-1", "plain"]) await writeFile(path.join(directory, name), name);
      const rules = [
        { pattern: "red-*", tenant: "red" },
        { pattern: "blue-*", tenant: "registrar" },
      ];
      const { body } = await register({ kind: "file", directory, name: "ruled", tenantRules: rules });
      const discover = () => test.call("POST", `/hypervisors/${body.id}/discover`, admin);
      assert.deepEqual((await discover()).body, { found: 3, added: 3, missing: 0, unsupported: 0 });

      const names = async (tenant: string, role: "admin" | "operator") =>
        (await test.call("GET", `/volumes?hypervisorId=${body.id}`, { tenant, role })).body.items
          .map((item: { name: string }) => item.name)
          .sort();
      assert.deepEqual(await names("red", "operator"), ["red-1"]);
      assert.deepEqual(await names("registrar", "operator"), ["blue-1"]);
      assert.deepEqual(await names("registrar", "admin"), ["blue-1", "plain"]);
      assert.equal(
        (await test.call("GET", `/hypervisors/${body.id}`, { tenant: "registrar", role: "reader" })).body.tenantRules,
        undefined,
      );

      await rm(path.join(directory, "blue-1"));
      assert.deepEqual((await discover()).body, { found: 2, added: 0, missing: 1, unsupported: 0 });
      const { body: volumes } = await test.call("GET", `/volumes?hypervisorId=${body.id}`, { tenant: "registrar" });
      assert.equal(volumes.items[0].status, "missing");
      const refused = await test.call("POST", `/volumes/${volumes.items[0].id}/snapshots`, {
        tenant: "registrar",
        body: {},
      });
      assertProblem(refused, 409, "volume-is-missing");

      assert.deepEqual((await test.call("DELETE", `/hypervisors/${body.id}`, admin)).body, {
        snapshots: [],
        volumes: 3,
        bytesLeftBehind: { primary: 0, stored: 0 },
      });
      assertProblem(await test.call("GET", `/hypervisors/${body.id}`, admin), 404, "not-found");
      assert.deepEqual(await names("red", "admin"), []);
      await rm(directory, { recursive: true });
    });

    it("with snapshots are forgotten by force only, and backups stay", async () => {
      const own = await TestHypervisor.register(test, "registrar");
      const volume = await own.addVolume("v", 5000, [{ offset: 0, data: noise(5000) }]);
      const made = await test.call("POST", `/volumes/${volume}/snapshots`, { ...admin, body: {} });
      await snapshotIn(test, made.body.snapshot.id, ["BackedUp"], { tenant: "registrar" });
      const refused = await test.call("DELETE", `/hypervisors/${own.id}`, admin);
      assertProblem(refused, 409, "hypervisor-in-use");
      assert.deepEqual(refused.body.snapshots, [made.body.snapshot.id]);
      const { status, body } = await test.call("DELETE", `/hypervisors/${own.id}?force=true`, admin);
      assert.equal(status, 200, JSON.stringify(body));
      assert.equal(body.volumes, 1);
      assert.deepEqual(body.snapshots, []);
      assert.equal((await test.call("GET", `/snapshots/${made.body.snapshot.id}`, admin)).body.state, "BackedUp");
      await own.remove();
    });
  });

  describe("stores", () => {
    const admin = { role: "admin", tenant: "registrar" } as const;
    const register = (body: Record<string, unknown>) =>
      test.call("POST", "/stores", {
        ...admin,
        body: { name: "s", bucket: "some-bucket", secretId: "snapferry/registrar/none", ...body },
      });

    async function secret(text: string): Promise<string> {
      const Name = `snapferry/registrar/test-${randomUUID()}`;
      await test.clients.secrets.send(new CreateSecretCommand({ Name, SecretString: text }));
      return Name;
    }

    it("begin with the default one, which stays", async () => {
      const { body } = await test.call("GET", "/stores", admin);
      assert.deepEqual(body.items[0], { id: "default", name: "default", default: true, encryption: "none" });
      assert.equal((await test.call("GET", "/stores/default", admin)).status, 200);
      assertProblem(await test.call("DELETE", "/stores/default", admin), 409, "store-in-use");
    });

    it("are refused with the field that is to blame", async () => {
      const usable = await secret('{"accessKeyId":"test","secretAccessKey":"test"}');
      const cases: [Record<string, unknown>, string][] = [
        [{ endpoint: "http://169.254.169.254" }, "/endpoint"],
        [{ endpoint: "http://10.0.0.1:9000" }, "/endpoint"],
        [{ endpoint: "https://[::1]" }, "/endpoint"],
        [{ endpoint: "http://0x7f.1" }, ""],
        [{ endpoint: "https://user:pw@s3.example.com" }, "/endpoint"],
        [{ endpoint: "file:///etc/passwd" }, "/endpoint"],
        [{ endpoint: test.endpoint }, "/secretId"],
        [{ endpoint: test.endpoint, secretId: await secret("not json") }, "/secretId"],
        [{ endpoint: test.endpoint, secretId: await secret('{"accessKeyId":"x"}') }, "/secretId"],
        [{ secretId: "other/secret" }, "/secretId"],
        [{ endpoint: test.endpoint, secretId: "snapferry/acme/of-another-tenant" }, "/secretId"],
        [{ endpoint: test.endpoint, secretId: usable, bucket: "no-such-bucket-here" }, "/bucket"],
        [{ bucket: "Not A Bucket" }, "/bucket"],
      ];
      for (const [body, pointer] of cases) {
        const answer = await register(body);
        assertProblem(answer, 400, "invalid-request");
        if (pointer !== "") assert.equal(answer.body.errors[0].pointer, pointer, JSON.stringify(answer.body));
      }
    });

    it("are listed without secrets, refuse to go while snapshots use them, and go by force", async () => {
      const store = await registerStore(test, "acme");
      const { body } = await test.call("GET", `/stores/${store.id}`);
      assert.equal(body.bucket, store.bucket);
      assert.ok(!JSON.stringify(body).includes("secretAccessKey"));
      const made = await create({ storeId: store.id });
      assert.equal(made.status, 202, JSON.stringify(made.body));
      const at = (query = "") => test.call("DELETE", `/stores/${store.id}${query}`, { role: "admin" });
      assertProblem(await at("?force=true"), 409, "store-in-use");
      await snapshotIn(test, made.body.snapshot.id, ["BackedUp"]);
      const refused = await at();
      assertProblem(refused, 409, "store-in-use");
      assert.deepEqual(refused.body.snapshots, [made.body.snapshot.id]);
      const forgotten = await at("?force=true");
      assert.equal(forgotten.status, 200, JSON.stringify(forgotten.body));
      assert.deepEqual(forgotten.body.snapshots, [made.body.snapshot.id]);
      assert.ok(forgotten.body.bytesLeftBehind.stored > 0);
      assertProblem(await test.call("GET", `/snapshots/${made.body.snapshot.id}`), 404, "not-found");
      await store.close();
    });
  });

  describe("the service itself", () => {
    it("says that it is well, to everybody", async () => {
      const { status, body } = await raw("GET", "/health");
      assert.equal(status, 200);
      assert.equal(body.status, "ok");
      assert.match(body.version, /^\d+\.\d+\.\d+$/);
    });

    it("has every route that its document describes", async () => {
      const { status, body } = await raw("GET", "/openapi.json");
      assert.equal(status, 200);
      assert.match(body.openapi, /^3\.1\./);
      const authorization = `Bearer ${await test.token("nobody", "admin")}`;
      for (const [where, item] of Object.entries<Record<string, { responses: Record<string, unknown> }>>(body.paths))
        for (const [method, { responses }] of Object.entries(item)) {
          const answer = await raw(method.toUpperCase(), where.replace("{id}", "none"), { headers: { authorization } });
          assert.ok(String(answer.status) in responses, `${method} ${where}: ${answer.status}`);
          assert.ok(answer.status < 500);
          const missing = answer.status === 404 && answer.body.detail.startsWith("There is nothing at this path");
          assert.ok(!missing, `${method} ${where} leads nowhere`);
        }
    });
  });
});
