import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { type FakeAnswer, type FakeRequest, fakeApi, problem } from "../test/support/fake-api.ts";
import { runCli } from "./program.ts";
import type { Terminal } from "./terminal.ts";

const ids = {
  volume: "vol_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
  other: "vol_01JD7QXN8ZK4V1TQ3C5M9R2WEZ",
  snapshot: "snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
  job: "job_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
  backup: "job_01JD7QXN8ZK4V1TQ3C5M9R2WEZ",
  hypervisor: "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
  vm: "vm_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
};
const gib = 1024 ** 3;

function volume(id: string, name: string, more = {}) {
  return {
    id,
    name,
    status: "available",
    sizeBytes: 40 * gib,
    hypervisorId: ids.hypervisor,
    backingUp: 0,
    discoveredAt: new Date().toISOString(),
    ...more,
  };
}

function snapshot(more = {}) {
  return {
    id: ids.snapshot,
    volumeId: ids.volume,
    storeId: "default",
    tags: {},
    state: "BackedUp",
    consistency: "filesystem",
    bytes: { logical: 40 * gib, stored: 6.2 * gib },
    references: [{ role: "Image", storeId: "default", state: "Ready" }],
    job: { id: ids.job, href: `/v1/jobs/${ids.job}` },
    attempt: 1,
    maxAttempts: 3,
    readers: [],
    createdAt: new Date(Date.now() - 2.5 * 3600_000).toISOString(),
    ...more,
  };
}

function job(more = {}) {
  return {
    id: ids.job,
    kind: "create-snapshot",
    state: "Queued",
    phase: "Queued",
    snapshotId: ids.snapshot,
    volumeId: ids.volume,
    attempt: 0,
    maxAttempts: 3,
    attempts: [],
    createdAt: new Date().toISOString(),
    ...more,
  };
}

interface Run {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  readonly requests: readonly FakeRequest[];
}

let homes: string;
before(async () => {
  homes = await mkdtemp(path.join(tmpdir(), "snapferry-cli-"));
});
after(() => rm(homes, { recursive: true }));

async function home(): Promise<string> {
  return mkdtemp(path.join(homes, "home-"));
}

/** Runs the command line against an API that answers like this. */
async function run(
  args: readonly string[],
  answer: (request: FakeRequest) => FakeAnswer | undefined,
  options: { env?: Record<string, string>; input?: string; interruptAfter?: number } = {},
): Promise<Run> {
  const api = await fakeApi(answer);
  let out = "";
  let err = "";
  const terminal: Terminal = {
    env: { HOME: await home(), SNAPFERRY_URL: api.url, SNAPFERRY_TOKEN: "a.b.c", ...options.env },
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
    interactive: false,
    readInput: async () => options.input,
    onInterrupt: (callback) => {
      if (options.interruptAfter === undefined) return () => {};
      const timer = setTimeout(callback, options.interruptAfter);
      return () => clearTimeout(timer);
    },
  };
  try {
    const code = await runCli(
      args.map((arg) => arg.replace("{url}", api.url)),
      terminal,
      "1.2.3",
    );
    return { code, out, err, requests: api.requests };
  } finally {
    await api.close();
  }
}

/** Answers by method and path. */
function answers(table: Record<string, unknown>) {
  return (request: FakeRequest): FakeAnswer | undefined => {
    const found =
      table[`${request.method} ${request.path}`] ?? table[`${request.method} ${request.path.split("?")[0]}`];
    return found === undefined ? undefined : { body: found };
  };
}

const volumes = { "GET /volumes": { items: [volume(ids.volume, "web-root"), volume(ids.other, "db-data")] } };

describe("volumes", () => {
  const path = `/volumes/${ids.volume}`;

  test("unprotect waits until nothing is left, and says what it waits for", async () => {
    const protectionError = { name: "ChainChanged", message: "others\u001b[2J use it" };
    const states = [{ protection: "ending", protectionError }, { protection: "ended" }];
    const { code, out, err, requests } = await run(["volumes", "unprotect", "web-root", "--wait"], (request) => {
      if (request.method === "POST") return { status: 202, body: volume(ids.volume, "web-root", states[0]) };
      if (request.path === path) return { body: volume(ids.volume, "web-root", states[1]) };
      return { body: volumes["GET /volumes"] };
    });
    assert.equal(code, 0, err);
    assert.equal(err, "It has to wait: others\ufffd[2J use it\n");
    assert.equal(out, `${ids.volume} is unprotected: nothing of it is left on its hypervisor.\n`);
    assert.equal(requests[1]?.path, `${path}/unprotect`);
  });

  test("unprotect stops waiting when asked to, or when the volume is protected again", async () => {
    const begun = (protection: string) => (request: FakeRequest) =>
      request.method === "POST"
        ? { status: 202, body: volume(ids.volume, "web-root", { protection: "ending" }) }
        : { body: volume(ids.volume, "web-root", { protection }) };
    const args = ["volumes", "unprotect", ids.volume, "--wait"];
    const interrupted = await run(args, begun("ending"), { interruptAfter: 50 });
    assert.match(interrupted.err, /It goes on\. Look at it with snapferry volumes get vol_/);
    const taken = await run(args, begun("protected"));
    assert.equal(taken.code, 1);
    assert.match(taken.err, /was protected again meanwhile/);
  });

  test("protect takes it back", async () => {
    const answer = { [`POST ${path}/protect`]: volume(ids.volume, "web-root", { protection: "protected" }) };
    const { code, out } = await run(["volumes", "protect", ids.volume], answers(answer));
    assert.equal(code, 0);
    assert.match(out, /is protected: snapshots of it can be taken/);
  });
});

describe("snapshots", () => {
  test("restore gives a volume its bytes back, and takes no new volume's place or name for that", async () => {
    const answer = {
      job: job({ kind: "restore-volume" }),
      snapshot: snapshot(),
      volume: volume(ids.volume, "web-root"),
    };
    const path = `/snapshots/${ids.snapshot}/restore`;
    const args = ["snapshots", "restore", ids.snapshot, "--in-place"];
    const { code, out, requests } = await run(args, answers({ [`POST ${path}`]: answer }));
    assert.equal(code, 0);
    assert.match(out, /web-root \(vol_\w+\) is being restored/);
    assert.deepEqual(requests[0]?.body, { target: { inPlace: true } });
    assert.equal((await run([...args, "--name", "x"], answers({}))).code, 2);
    assert.equal((await run(["snapshots", "restore", ids.snapshot, "--to", "lab"], answers({}))).code, 2);
  });
});

describe("exit codes", () => {
  const list = ["volumes", "ls"];
  const cases: [string, readonly string[], FakeAnswer, number][] = [
    ["done", list, { body: { items: [] } }, 0],
    ["refused", list, problem(409, "conflict", "No."), 1],
    ["a bug of the service", list, problem(500, "internal-error", "Oh."), 1],
    ["wrong usage", ["volumes", "ls", "--nope"], { body: {} }, 2],
    ["an unknown command", ["volums"], { body: {} }, 2],
    ["a group alone", ["volumes"], { body: {} }, 2],
    ["a missing argument", ["snapshots", "get"], { body: {} }, 2],
    ["a missing option", ["snapshots", "restore", ids.snapshot], { body: {} }, 2],
    [
      "two VMs",
      ["snapshots", "restore", "s", "--to", "h", "--name", "n", "--attach-to", "v", "--new-vm", "w"],
      { body: {} },
      2,
    ],
    ["a limit that is no number", ["volumes", "ls", "--limit", "x"], { body: {} }, 2],
    ["a size that is none", ["stores", "set", "default", "--bytes-per-second", "10MB"], { body: {} }, 2],
    ["a change of nothing", ["stores", "set", "default"], { body: {} }, 2],
    ["a lock without days", ["stores", "set", "default", "--object-lock", "governance"], { body: {} }, 2],
    ["a limit that is none at all", ["stores", "add", "x", "--bytes-per-second", "none"], { body: {} }, 2],
    ["a way of checking that is none", ["snapshots", "create", "x", "--verify", "twice"], { body: {} }, 2],
    ["a hang-up", list, "hang-up", 3],
    ["a bucket that is not named", ["store", "inspect"], { body: {} }, 2],
    ["a file that is not named", ["store", "restore", "snap1", "--bucket", "b"], { body: {} }, 2],
    ["two files", ["snapshots", "download", ids.snapshot, "--raw", "a", "--qcow2", "b"], { body: {} }, 2],
    ["nothing to verify", ["store", "verify", "--bucket", "b"], { body: {} }, 2],
    ["something that is no JSON", list, { body: "<html>", raw: true }, 3],
    ["a gateway's own words", list, { status: 502, body: { message: "Bad gateway" } }, 3],
    ["unavailable", list, problem(503, "unavailable", "Later."), 3],
    ["no token", list, problem(401, "unauthorized", "Who?"), 4],
    ["a lesser role", list, problem(403, "forbidden", "Not you."), 4],
    ["help", ["snapshots", "create", "--help"], { body: {} }, 0],
    ["version", ["--version"], { body: {} }, 0],
  ];
  for (const [what, args, answer, code] of cases)
    test(`${code} for ${what}`, async () => {
      const result = await run(args, () => answer);
      assert.equal(result.code, code, result.err);
      if (code > 0) assert.ok(result.err.length > 0);
    });
});

describe("help", () => {
  test("every command has a summary and examples", async () => {
    const commands = [
      [],
      ["login"],
      ["volumes"],
      ["snapshots"],
      ["jobs"],
      ["hypervisors"],
      ["hypervisors", "add", "file"],
      ["hypervisors", "add", "kvm"],
      ["stores"],
      ["stores", "set"],
      ["snapshots", "restore"],
      ["snapshots", "download"],
      ["store"],
      ["store", "inspect"],
      ["store", "verify"],
      ["store", "restore"],
      ["store", "import"],
      ["jobs", "watch"],
    ];
    for (const words of commands) {
      const { out } = await run([...words, "--help"], () => undefined);
      assert.match(out, /Examples:\n {2}\$ snapferry /, words.join(" "));
    }
  });
});

describe("hypervisors", () => {
  test("add kvm sends what is named, reads known_hosts, and shows what was found", async () => {
    const knownHosts = path.join(await home(), "known_hosts");
    await writeFile(knownHosts, "kvm1 ssh-ed25519 AAAA\n");
    let asked: unknown;
    const words = ["hypervisors", "add", "kvm", "ssh://backup@kvm1", "--secret", "snapferry/acme/kvm1"];
    const result = await run([...words, "--known-hosts", knownHosts, "--tenant-rule", "web-*=acme"], ({ body }) => {
      asked = body;
      const lastCheck = { at: new Date().toISOString(), versions: { libvirt: "9.0.0" }, warnings: ["No agent\u001b."] };
      return { status: 201, body: { id: ids.hypervisor, name: "kvm1", kind: "kvm", lastCheck } };
    });
    assert.equal(result.code, 0, result.err);
    assert.deepEqual(asked, {
      kind: "kvm",
      endpoint: "ssh://backup@kvm1",
      secretId: "snapferry/acme/kvm1",
      knownHosts: "kvm1 ssh-ed25519 AAAA\n",
      tenantRules: [{ pattern: "web-*", tenant: "acme" }],
    });
    assert.match(
      result.out,
      /\(kvm1\) is registered\.\nIt has libvirt 9\.0\.0\.\nNote: No agent\P{Cc}+\nFind its volumes/u,
    );
  });

  test("get shows what a KVM host was found to be", async () => {
    const lastCheck = {
      at: new Date().toISOString(),
      versions: { libvirt: "9.0.0" },
      warnings: ["There is no virsh."],
    };
    const host = {
      kind: "kvm",
      endpoint: "ssh://backup@kvm1:22",
      hostKeys: ["SHA256:abc"],
      secretId: "snapferry/acme/kvm1",
    };
    const known = { id: ids.hypervisor, name: "kvm1", ...host, lastCheck, createdAt: lastCheck.at };
    const { out, code, err } = await run(["hypervisors", "get", ids.hypervisor], () => ({ body: known }));
    assert.equal(code, 0, err);
    for (const line of [
      /Where +ssh:\/\/backup@kvm1:22/,
      /Host key +SHA256:abc/,
      /libvirt +9\.0\.0/,
      /Note +There is no virsh\./,
    ])
      assert.match(out, line);
  });

  test("add kvm says which file it cannot read", async () => {
    const words = ["hypervisors", "add", "kvm", "ssh://backup@kvm1", "--secret", "s", "--known-hosts", "/no/such"];
    const { code, err } = await run(words, () => undefined);
    assert.equal(code, 2);
    assert.match(err, /^\/no\/such cannot be read: /);
  });

  test("discover counts volumes, and VMs where there may be any", async () => {
    const counts = { found: 3, added: 1, missing: 0, unsupported: 1 };
    for (const [vms, lines] of [
      [{}, 1],
      [{ vms: { found: 2, added: 2, missing: 1 } }, 2],
    ] as const) {
      const found = { [`POST /hypervisors/${ids.hypervisor}/discover`]: { ...counts, ...vms } };
      const { out } = await run(["hypervisors", "discover", ids.hypervisor], answers(found));
      assert.match(out, /^3 volumes: 1 new, 1 unsupported; 0 missing\.\n/);
      assert.equal(/\n2 VMs: 2 new; 1 missing\.\n$/.test(out), lines === 2);
    }
  });
});

describe("stores", () => {
  const store = { id: "default", name: "default", default: true, encryption: "none" };

  test("set changes what is named and takes away what is none", async () => {
    let asked: unknown;
    const limits = { bytesPerSecond: 50 * 2 ** 20 };
    const objectLock = { mode: "compliance", days: 30 };
    const result = await run(
      [
        ...["stores", "set", "default", "--bytes-per-second", "50MiB", "--requests-per-second", "none"],
        ...["--object-lock", "compliance:30"],
      ],
      (request) => {
        if (request.method === "GET") return { body: { items: [store] } };
        asked = [request.method, request.path, request.body];
        return { body: { ...store, limits, objectLock } };
      },
    );
    assert.equal(result.code, 0, result.err);
    assert.deepEqual(asked, [
      "PATCH",
      "/stores/default",
      { limits: { ...limits, requestsPerSecond: null }, objectLock },
    ]);
    assert.match(result.out, /Bytes a second +50 MiB\n/);
    assert.match(result.out, /Object Lock +compliance, 30 days\n/);
  });

  test("add asks for encryption, limits and retention only where they are given", async () => {
    const bodies: unknown[] = [];
    const answer = (request: FakeRequest) => {
      bodies.push(request.body);
      return { status: 201, body: { ...store, id: "store_1" } };
    };
    const base = ["stores", "add", "vault", "--bucket", "vault", "--secret", "snapferry/acme/vault"];
    await run(base, answer);
    await run([...base, "--encrypt", "--object-lock", "governance:1", "--requests-per-second", "9"], answer);
    const plain = { name: "vault", bucket: "vault", secretId: "snapferry/acme/vault" };
    assert.deepEqual(bodies, [
      plain,
      {
        ...plain,
        encryption: "client",
        limits: { requestsPerSecond: 9 },
        objectLock: { mode: "governance", days: 1 },
      },
    ]);
  });
});

describe("lists", () => {
  test("snapshots ls shows names, human sizes and relative times", async () => {
    const page = {
      items: [
        snapshot(),
        snapshot({
          state: "BackingUp",
          progress: { bytesDone: 43, bytesTotal: 100 },
          references: [{ role: "Primary", storeId: ids.hypervisor, state: "Ready" }],
          bytes: { logical: 40 * gib },
        }),
        snapshot({
          volumeId: ids.other,
          state: "Error",
          attempt: 3,
          error: { name: "StoreUnavailable", message: "x" },
          references: [],
          consistency: undefined,
        }),
      ],
      nextCursor: "abc",
    };
    const result = await run(
      ["snapshots", "ls"],
      answers({ "GET /snapshots": page, [`GET /volumes/${ids.volume}`]: volume(ids.volume, "web-root") }),
    );
    assert.equal(result.code, 0, result.err);
    const [head, first, second, third] = result.out.split("\n");
    assert.match(head ?? "", /^ID +VOLUME +STATE +PRIMARY +STORES +LOGICAL +STORED +CONSISTENCY +CREATED$/);
    assert.match(first ?? "", /web-root +BackedUp +– +default +40 GiB +6.2 GiB +filesystem +2 h ago$/);
    assert.match(second ?? "", /web-root +BackingUp 43 % +ready +– +40 GiB +– /);
    assert.match(third ?? "", new RegExp(`${ids.other} +Error .*StoreUnavailable, attempt 3 of 3$`));
    assert.match(result.err, /--cursor abc/);
  });

  test("--json is the API's page unchanged, and nothing else", async () => {
    const page = { items: [snapshot()], nextCursor: "abc" };
    const result = await run(
      ["snapshots", "ls", "--json", "--limit", "1", "--state", "BackedUp"],
      answers({ "GET /snapshots": page }),
    );
    assert.deepEqual(JSON.parse(result.out), JSON.parse(JSON.stringify(page)));
    assert.equal(result.err, "");
    assert.equal(result.requests[0]?.path, "/snapshots?limit=1&state=BackedUp");
    assert.equal(result.requests[0]?.headers.authorization, "Bearer a.b.c");
  });

  test("names with control characters cannot move the cursor", async () => {
    const { out } = await run(
      ["volumes", "ls"],
      answers({ "GET /volumes": { items: [volume(ids.volume, "a\u001b[2Jb\nc")] } }),
    );
    assert.ok(!/[^\P{Cc}\n]/u.test(out));
    assert.equal(out.trim().split("\n").length, 2);
  });
});

describe("store import", () => {
  const one = { snapshotId: ids.snapshot, volumeId: ids.volume };
  const two = { snapshotId: "snap_01JD7QXN8ZK4V1TQ3C5M9R2WEZ", volumeId: ids.volume };
  const refusal = { snapshotId: "snap_x", domain: "d", reason: "It is\u001b[2J damaged." };
  const pages = {
    "POST /stores/default/import?limit=100": { imported: [one], known: 2, refused: [refusal], nextCursor: "abc" },
    "POST /stores/default/import?limit=100&cursor=abc": { imported: [two], known: 1, refused: [] },
  };

  test("goes through all pages and sums them up; what was refused is told, and makes the command fail", async () => {
    const result = await run(["store", "import", "default"], answers(pages));
    assert.equal(result.code, 1);
    assert.match(
      result.out,
      /^2 snapshots of 1 volumes are imported; 3 were known already\.\nsnap_x in d: It is�\[2J damaged\.\n$/,
    );
    assert.match(result.err, /1 backups were not imported/);
    const json = await run(["store", "import", "default", "--json"], answers(pages));
    assert.deepEqual(JSON.parse(json.out), { imported: [one, two], refused: [refusal], known: 3 });
  });

  test("goes on from a cursor, and says how to after Ctrl-C", async () => {
    const rest = await run(["store", "import", "default", "--cursor", "abc"], answers(pages));
    assert.equal(rest.code, 0, rest.err);
    assert.match(rest.out, /^1 snapshots/);
    const endless = { imported: [], known: 1, refused: [], nextCursor: "next" };
    const stopped = await run(["store", "import", "default"], () => ({ body: endless }), { interruptAfter: 100 });
    assert.equal(stopped.code, 130);
    assert.match(stopped.err, /store import default --cursor next/);
  });

  test("says what was done and how to go on when a page cannot be had", async () => {
    const [first] = Object.entries(pages).slice(0, 1) as [[string, object]];
    const broken = await run(["store", "import", "default"], answers(Object.fromEntries([first])));
    assert.equal(broken.code, 1);
    assert.match(broken.out, /^1 snapshots of 1 volumes are imported; 2 were known already\.\nsnap_x in d/);
    assert.match(broken.err, /store import default --cursor abc\n404 not-found/);
    const json = await run(["store", "import", "default", "--json"], answers(Object.fromEntries([first])));
    assert.equal(JSON.parse(json.out).nextCursor, "abc");
    assert.equal(JSON.parse(json.err).status, 404);
    assert.equal((await run(["store", "import", "default"], () => undefined)).out, "");
  });
});

describe("looking at a snapshot", () => {
  test("shows whether the definition of its VM is saved", async () => {
    const look = (more: object) =>
      run(
        ["snapshots", "get", ids.snapshot],
        answers({ [`GET /snapshots/${ids.snapshot}`]: snapshot(more), ...volumes }),
      );
    const { out } = await look({ vmDefinition: { name: "web\u001b", target: "vda" } });
    assert.match(out, /VM +web\S*, disk vda; its definition is saved\n/);
    assert.ok(!out.includes("\u001b"));
    assert.doesNotMatch((await look({})).out, /VM/);
  });

  test("shows the last check and a wrong hint", async () => {
    const checked = snapshot({
      lastCheck: {
        at: "2026-01-02T00:00:00.000Z",
        checkedChunks: 12,
        checkedBytes: 1_572_864,
        result: "damaged",
        lost: ["Bytes 0-9"],
      },
      hintMismatch: { at: "2026-01-01T00:00:00.000Z", jobId: ids.backup, attempt: 1, message: "Range 5 has changed" },
    });
    const table = {
      [`GET /snapshots/${ids.snapshot}`]: checked,
      [`GET /volumes/${ids.volume}`]: volume(ids.volume, "web"),
    };
    const { out, code, err } = await run(["snapshots", "get", ids.snapshot], answers(table));
    assert.equal(code, 0, err);
    assert.match(out, /Last check +2026-01-02\S+ +damaged, 12 chunks \(1\.5 MiB\) read back\nLost +Bytes 0-9\n/);
    assert.match(out, /Wrong hint +2026-01-01\S+ +Range 5 has changed/);
  });
});

describe("snapshots download", () => {
  const place = {
    snapshotId: ids.snapshot,
    storeId: "default",
    bucket: "no-bucket",
    prefix: "",
    endpoint: "http://127.0.0.1:1",
    region: "us-east-1",
    pathStyle: true,
    domain: "0123456789abcdef0123456789abcdef",
    encrypted: false,
  };

  test("asks where the backup lies; what cannot be reached there is a sentence", async () => {
    const file = path.join(await home(), "image");
    const table = answers({ [`GET /snapshots/${ids.snapshot}/location`]: place });
    const before = { ...process.env };
    Object.assign(process.env, { AWS_ACCESS_KEY_ID: "test", AWS_SECRET_ACCESS_KEY: "test" });
    const result = await run(["snapshots", "download", ids.snapshot, "--raw", file], table);
    process.env = before;
    assert.equal(result.code, 3, result.err);
    assert.match(result.err, /no-bucket.*ECONNREFUSED.*--endpoint/);
    await assert.rejects(stat(file));
  });

  test("of what is not backed up is refused in the service's words", async () => {
    const refused = problem(409, "snapshot-is-backing-up", "It is being backed up.");
    const result = await run(["snapshots", "download", ids.snapshot, "--raw", "x"], () => refused);
    assert.equal(result.code, 1);
    assert.match(result.err, /409 snapshot-is-backing-up/);
  });
});

describe("naming a volume", () => {
  const created = {
    ...volumes,
    [`POST /volumes/${ids.volume}/snapshots`]: { job: job(), snapshot: snapshot({ state: "Allocated" }) },
  };
  const create = (text: string, table: Record<string, unknown> = created) =>
    run(["snapshots", "create", text], answers(table));

  test("by name, by id, by the beginning of an id", async () => {
    for (const text of ["web-root", ids.volume]) assert.equal((await create(text)).code, 0, text);
    const table = {
      ...created,
      "GET /volumes": { items: [volume(ids.volume, "web-root"), volume("vol_7ZZZQXN8ZK4V1TQ3C5M9R2WEZZ", "db")] },
    };
    assert.equal((await create("vol_01JD", table)).code, 0);
  });

  test("a complete id is not looked up", async () => {
    assert.equal((await create(ids.volume)).requests.length, 1);
  });

  test("an unknown one is refused, an ambiguous one lists the candidates", async () => {
    const unknown = await create("nothing");
    assert.equal(unknown.code, 1);
    assert.match(unknown.err, /no volume "nothing"/);
    const ambiguous = await create("vol_01JD");
    assert.equal(ambiguous.code, 2);
    assert.ok(ambiguous.err.includes(ids.volume) && ambiguous.err.includes(ids.other));
  });

  test("a volume that is there goes before missing ones of the same name", async () => {
    const table = {
      ...created,
      "GET /volumes": { items: [volume(ids.other, "web-root", { status: "missing" }), volume(ids.volume, "web-root")] },
    };
    assert.equal((await create("web-root", table)).code, 0);
  });
});

describe("making a snapshot", () => {
  const path = `/volumes/${ids.volume}/snapshots`;

  test("sends what was asked for, with a key", async () => {
    const args = [
      "snapshots",
      "create",
      ids.volume,
      "--name",
      "n",
      "--description",
      "d",
      "--tag",
      "a=b",
      "--tag",
      "c=d=e",
      "--store",
      "default",
      "--async",
      "--verify",
      "full",
      "--full",
      "--json",
    ];
    const answer = { job: job(), snapshot: snapshot() };
    const { code, out, requests } = await run(args, answers({ [`POST ${path}`]: answer }));
    assert.equal(code, 0);
    assert.deepEqual(JSON.parse(out), JSON.parse(JSON.stringify(answer)));
    assert.deepEqual(requests[0]?.body, {
      name: "n",
      description: "d",
      tags: { a: "b", c: "d=e" },
      storeId: "default",
      asyncBackup: true,
      verify: "full",
      full: true,
    });
    assert.match(String(requests[0]?.headers["idempotency-key"]), /^[0-9a-f-]{36}$/);
  });

  test("is repeated with the same key when the answer is lost", async () => {
    let tries = 0;
    const { code, requests } = await run(["snapshots", "create", ids.volume], () =>
      ++tries < 3 ? "hang-up" : { status: 202, body: { job: job(), snapshot: snapshot() } },
    );
    assert.equal(code, 0);
    assert.equal(requests.length, 3);
    assert.equal(new Set(requests.map(({ headers }) => headers["idempotency-key"])).size, 1);
  });

  test("is repeated when the API says, and not at all when that is long", async () => {
    const later = (seconds: string) => {
      const answer = problem(503, "unavailable", "Later.");
      assert.ok(answer !== "hang-up");
      return { ...answer, headers: { "retry-after": seconds } };
    };
    const begin = Date.now();
    let tries = 0;
    const { code } = await run(["snapshots", "create", ids.volume], () =>
      ++tries < 2 ? later("1") : { status: 202, body: { job: job(), snapshot: snapshot() } },
    );
    assert.equal(code, 0);
    assert.ok(Date.now() - begin >= 1000);
    const busy = await run(["snapshots", "create", ids.volume], () => later("3600"));
    assert.deepEqual([busy.code, busy.requests.length], [3, 1]);
  });

  test("--watch follows the backup that an asynchronous creation has started", async () => {
    const looks: Record<string, number> = {};
    const states = (id: string, ...all: object[]) => {
      const look = looks[id] ?? 0;
      looks[id] = look + 1;
      return { body: all[Math.min(look, all.length - 1)] };
    };
    const result = await run(["snapshots", "create", ids.volume, "--async", "--watch"], ({ method, path: where }) => {
      if (method === "POST") return { status: 202, body: { job: job(), snapshot: snapshot({ state: "Allocated" }) } };
      if (where === `/jobs/${ids.job}`)
        return states(
          where,
          job({ state: "Running", phase: "Taking" }),
          job({ state: "Succeeded", asyncBackup: true, backupJobId: ids.backup }),
        );
      if (where === `/jobs/${ids.backup}`)
        return states(
          where,
          job({ id: ids.backup, queue: { position: 2, waitsFor: "a slot" } }),
          job({
            id: ids.backup,
            state: "Running",
            phase: "Copying",
            attempt: 1,
            progress: { bytesDone: gib, bytesTotal: 2 * gib },
          }),
          job({ id: ids.backup, state: "Succeeded", phase: "Closing", attempt: 1 }),
        );
      return { body: snapshot() };
    });
    assert.equal(result.code, 0, result.err);
    assert.match(result.err, /Taking/);
    assert.match(result.err, /on primary storage: the volume is free/);
    assert.match(result.err, /Queued \(position 2\)/);
    assert.match(result.err, /Copying {2}50 % {2}1 GiB of 2 GiB {2}attempt 1 of 3/);
    assert.equal(result.out, `${ids.snapshot} is BackedUp.\n`);
  });
});

describe("restoring", () => {
  const words = ["snapshots", "restore", ids.snapshot, "--to", ids.hypervisor, "--name", "disk.qcow2"];

  /** Answers a restore that the hypervisor called its volume otherwise in. */
  function restores({ method, path: where }: FakeRequest): FakeAnswer {
    const target = { hypervisorId: ids.hypervisor, name: "disk.qcow2", volumeId: ids.volume };
    const restore = { kind: "restore-volume", target };
    if (method === "POST")
      return {
        status: 202,
        body: { job: job(restore), snapshot: snapshot(), volume: volume(ids.volume, "disk.qcow2") },
      };
    if (where.startsWith("/vms")) return { body: { items: [{ id: ids.vm, name: "web", state: "running" }] } };
    if (where.startsWith("/snapshots")) return { body: snapshot() };
    return { body: job({ ...restore, state: "Succeeded", target: { ...target, volumeId: ids.other, vmId: ids.vm } }) };
  }

  for (const [options, asked] of [
    [[], {}],
    [["--pool", "fast", "--new-vm", "web-2"], { pool: "fast", newVm: { name: "web-2" } }],
    [["--attach-to", "web"], { attachToVmId: ids.vm }],
  ] as const)
    test(`sends what ${options.join(" ") || "no option"} says`, async () => {
      const { code, err, out, requests } = await run([...words, ...options], restores);
      assert.equal(code, 0, err);
      const { body } = requests.at(-1) ?? assert.fail("nothing was asked for");
      assert.deepEqual(body, { target: { hypervisorId: ids.hypervisor, name: "disk.qcow2", ...asked } });
      assert.match(out, new RegExp(`^disk.qcow2 \\(${ids.volume}\\) is being restored\\.\\n`));
    });

  test("--salvage is asked for, and what is lost is told with an exit code of its own", async () => {
    const sentence = "The object is missing or damaged: packs/x. Bytes 0-511 of the volume are lost.";
    const salvages = (request: FakeRequest): FakeAnswer => {
      const answer = restores(request);
      if (!request.path.startsWith("/jobs") || answer === "hang-up") return answer;
      return { body: { ...(answer.body as object), salvage: true, lost: [sentence] } };
    };
    const { code, err, out, requests } = await run([...words, "--salvage", "--watch"], salvages);
    assert.equal(code, 6, err);
    assert.match(out, /is restored/);
    assert.match(err, /What is lost is zeros in the volume:\n {2}The object is missing/);
    const { body } = requests.find(({ method }) => method === "POST") ?? assert.fail("nothing was asked for");
    assert.deepEqual(body, { target: { hypervisorId: ids.hypervisor, name: "disk.qcow2" }, salvage: true });
    assert.equal((await run(["snapshots", "restore", ids.snapshot, "--in-place", "--salvage"], restores)).code, 2);
    const damaged = job({
      kind: "restore-volume",
      state: "Failed",
      error: { name: "RepositoryDamaged", message: sentence },
    });
    const fails = (request: FakeRequest): FakeAnswer =>
      request.path.startsWith("/jobs") ? { body: damaged } : restores(request);
    const failed = await run([...words, "--watch"], fails);
    assert.equal(failed.code, 1);
    assert.match(failed.err, /lost\. To a new volume, --salvage restores all the rest/);
  });

  test("--watch tells the volume's last id and the VM that has it", async () => {
    const { code, err, out } = await run([...words, "--new-vm", "web-2", "--watch"], restores);
    assert.equal(code, 0, err);
    assert.equal(out, `disk.qcow2 (${ids.other}) is restored, and is a disk of ${ids.vm}.\n`);
  });
});

describe("watching", () => {
  test("a job that fails is exit code 1 with its reason", async () => {
    const failed = job({
      state: "Failed",
      attempts: [{}, {}],
      error: { name: "StoreUnavailable", message: "no route" },
    });
    const result = await run(["jobs", "watch", ids.job, "--json"], answers({ [`GET /jobs/${ids.job}`]: failed }));
    assert.equal(result.code, 1);
    assert.match(result.err, /ended as Failed after 2 failed attempts: StoreUnavailable: no route/);
    assert.equal(JSON.parse(result.out).state, "Failed");
  });

  test("Ctrl-C says that the job goes on", async () => {
    const running = job({ state: "Running", phase: "Copying" });
    const result = await run(["jobs", "watch", ids.job], answers({ [`GET /jobs/${ids.job}`]: running }), {
      interruptAfter: 100,
    });
    assert.equal(result.code, 130);
    assert.match(result.err, /goes on\. .*snapferry jobs watch job_.*snapferry jobs cancel job_/);
  });
});

describe("problems", () => {
  const detail = `${ids.snapshot} is being backed up by ${ids.job} (43 %, attempt 1 of 3). Wait for it (GET /v1/jobs/${ids.job}) or cancel it first (POST /v1/jobs/${ids.job}/cancel).`;

  test("say what stands in the way and the commands that help", async () => {
    const { err, code } = await run(["snapshots", "rm", ids.snapshot], () =>
      problem(409, "snapshot-is-backing-up", detail),
    );
    assert.equal(code, 1);
    assert.equal(
      err,
      `409 snapshot-is-backing-up: ${ids.snapshot} is being backed up by ${ids.job} (43 %, attempt 1 of 3).\nWait for it (snapferry jobs watch ${ids.job}) or cancel it first (snapferry jobs cancel ${ids.job}).\n`,
    );
  });

  test("name every wrong field", async () => {
    const errors = [
      { pointer: "/directory", detail: "does not exist" },
      { parameter: "limit", detail: "must be less" },
    ];
    const { err } = await run(["hypervisors", "add", "file", "/x"], () =>
      problem(400, "invalid-request", "2 fields are wrong.", { errors }),
    );
    assert.equal(err, "400 invalid-request: 2 fields are wrong.\n  /directory does not exist\n  limit must be less\n");
  });

  test("are the API's object with --json", async () => {
    const { err } = await run(["snapshots", "rm", ids.snapshot, "--json"], () =>
      problem(409, "snapshot-is-backing-up", detail),
    );
    assert.equal(JSON.parse(err).detail, detail);
  });
});

describe("vms", () => {
  const vm = {
    id: ids.vm,
    hypervisorId: ids.hypervisor,
    name: "web",
    externalId: "5f0c2b1e",
    state: "running",
    guestAgent: "connected",
    disks: [
      { target: "vda", root: true, volumeId: ids.volume, name: "web-root", sizeBytes: 40 * gib },
      { target: "vdb", root: false },
    ],
    backingUp: 1,
    discoveredAt: new Date().toISOString(),
  };
  const vms = { "GET /vms": { items: [vm] }, [`GET /vms/${ids.vm}`]: vm };

  test("ls and show tell of state, agent and disks, and that a disk is somebody else's", async () => {
    const list = await run(["vms", "list"], answers(vms));
    assert.match(list.out, /web +running +connected +vda, vdb +1 /);
    const { out, code } = await run(["vms", "show", "web"], answers(vms));
    assert.equal(code, 0);
    assert.match(out, /vda, root: web-root \(vol_01JD7QXN8ZK4V1TQ3C5M9R2WEY\) +40/);
    assert.match(out, /vdb: not yours/);
  });

  test("snapshot asks for one moment of the named volumes and lists what is made", async () => {
    const made = { groupId: "group_1", vmId: ids.vm, snapshots: [snapshot({ state: "Allocated" })] };
    const { code, out, requests } = await run(
      ["vms", "snapshot", "web", "--volume", "web-root", "--quiesce", "preferred", "--async"],
      answers({ ...vms, ...volumes, [`POST /vms/${ids.vm}/snapshots`]: made, [`GET /volumes/${ids.volume}`]: {} }),
    );
    assert.equal(code, 0);
    assert.match(out, /Allocated/);
    const { body } = requests.find(({ method }) => method === "POST") ?? assert.fail();
    assert.deepEqual(body, { asyncBackup: true, quiesce: "preferred", volumeIds: [ids.volume] });
  });

  test("snapshot --watch follows the job of each and fails when one does", async () => {
    const failed = {
      ...job({ state: "Failed", error: { name: "QuiesceFailed", message: "no agent" } }),
      id: ids.backup,
    };
    const two = [snapshot(), snapshot({ job: { id: ids.backup, href: "" } })];
    const { code, err } = await run(
      ["vms", "snapshot", "web", "--watch"],
      answers({
        ...vms,
        [`POST /vms/${ids.vm}/snapshots`]: { groupId: "group_1", vmId: ids.vm, snapshots: two },
        [`GET /jobs/${ids.job}`]: job({ state: "Succeeded" }),
        [`GET /jobs/${ids.backup}`]: failed,
        [`GET /snapshots/${ids.snapshot}`]: snapshot(),
        [`GET /volumes/${ids.volume}`]: volume(ids.volume, "web-root"),
      }),
    );
    assert.equal(code, 1);
    assert.match(err, /QuiesceFailed: no agent/);
  });

  test("operations says what is refused and why", async () => {
    const operations = [
      { operation: "start", allowed: true },
      { operation: "detach-disk", volumeId: ids.volume, allowed: false, reason: "vda is being backed up by job_1." },
    ];
    const { out } = await run(
      ["vms", "operations", "web"],
      answers({ ...vms, [`GET /vms/${ids.vm}/operations`]: { vmId: ids.vm, operations } }),
    );
    assert.match(out, /start +yes/);
    assert.match(out, /detach-disk +vol_01JD7QXN8ZK4V1TQ3C5M9R2WEY +no +vda is being backed up by job_1\./);
  });

  for (const [args, body] of [
    [["start", "web"], { operation: "start" }],
    [["stop", "web"], { operation: "stop" }],
    [["reboot", "web"], { operation: "reboot" }],
    [["destroy", "web"], { operation: "destroy" }],
    [["attach-iso", "web", "/srv/a.iso"], { operation: "attach-iso", path: "/srv/a.iso" }],
    [["detach-iso", "web"], { operation: "detach-iso" }],
    [["attach-disk", "web", "db-data"], { operation: "attach-disk", volumeId: ids.other }],
    [["detach-disk", "web", "web-root"], { operation: "detach-disk", volumeId: ids.volume }],
    [["change-cpu", "web", "4"], { operation: "change-cpu", cpus: 4 }],
    [["change-memory", "web", "1073741824"], { operation: "change-memory", memoryBytes: gib }],
    [["change-memory", "web", "512MiB"], { operation: "change-memory", memoryBytes: gib / 2 }],
    [["reinstall", "web", "/srv/b.qcow2"], { operation: "reinstall", imagePath: "/srv/b.qcow2" }],
  ] as const)
    test(`${args.filter((arg) => arg !== "web").join(" ")} asks for just that`, async () => {
      const { code, out, requests } = await run(
        ["vms", ...args],
        answers({ ...vms, ...volumes, [`POST /vms/${ids.vm}/operations`]: vm }),
      );
      assert.equal(code, 0);
      assert.match(out, /of web is done\. It is running\./);
      assert.deepEqual(requests.find(({ method }) => method === "POST")?.body, body);
    });

  test("a count that is none is a usage error", async () => {
    assert.equal((await run(["vms", "change-cpu", "web", "four"], answers(vms))).code, 2);
    const { code, err } = await run(["vms", "change-memory", "web", "4GB"], answers(vms));
    assert.deepEqual([code, /a number of bytes, or one with KiB, MiB or GiB/.test(err)], [2, true]);
  });

  test("that a guest has not stopped yet is said, and how to go on", async () => {
    const stopping = { [`POST /vms/${ids.vm}/operations`]: { ...vm, state: "stopping" } };
    const { code, out } = await run(["vms", "stop", "web"], answers({ ...vms, ...stopping }));
    assert.equal(code, 0);
    assert.match(out, /^web was asked to stop and has not yet\. "vms stop" again waits on/);
  });
});

describe("credentials", () => {
  const works = answers({
    "GET /health": { status: "ok", version: "9" },
    "GET /jobs": { items: [] },
    "GET /volumes": { items: [] },
  });

  test("login checks and saves them for the user alone", async () => {
    const HOME = await home();
    const env = { HOME, SNAPFERRY_URL: "", SNAPFERRY_TOKEN: "" };
    const login = await run(["login", "{url}", "--token", "x.y.z"], works, { env });
    assert.equal(login.code, 0, login.err);
    const file = path.join(HOME, ".config/snapferry/credentials.json");
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    assert.equal(JSON.parse(await readFile(file, "utf8")).token, "x.y.z");
    assert.ok(!login.out.includes("x.y.z"));
  });

  test("login reads the token from stdin", async () => {
    const { code, requests } = await run(["login", "{url}"], works, {
      env: { SNAPFERRY_URL: "", SNAPFERRY_TOKEN: "" },
      input: "x.y.z\n",
    });
    assert.equal(code, 0);
    assert.equal(requests.at(-1)?.headers.authorization, "Bearer x.y.z");
  });

  test("login saves nothing that does not work", async () => {
    const HOME = await home();
    const refused = await run(["login", "{url}", "--token", "x"], () => problem(401, "unauthorized", "No."), {
      env: { HOME },
    });
    assert.equal(refused.code, 4);
    await assert.rejects(stat(path.join(HOME, ".config/snapferry/credentials.json")));
  });

  test("what was saved is used, but never sent to another URL", async (context) => {
    const api = await fakeApi(works);
    context.after(() => api.close());
    const HOME = await home();
    assert.equal(
      (await run(["login", api.url, "--token", "x.y.z"], works, { env: { HOME, SNAPFERRY_TOKEN: "" } })).code,
      0,
    );
    const seen = api.requests.length;
    assert.equal(
      (await run(["volumes", "ls"], works, { env: { HOME, SNAPFERRY_URL: "", SNAPFERRY_TOKEN: "" } })).code,
      0,
    );
    assert.equal(api.requests[seen]?.headers.authorization, "Bearer x.y.z");
    const elsewhere = await run(["volumes", "ls"], works, { env: { HOME, SNAPFERRY_TOKEN: "" } });
    assert.equal(elsewhere.code, 2);
    assert.equal(elsewhere.requests.length, 0);
  });

  test("that cannot be read or written are told in a sentence", async () => {
    const HOME = await home();
    const env = { HOME, SNAPFERRY_URL: "", SNAPFERRY_TOKEN: "" };
    await mkdir(path.join(HOME, ".config/snapferry/credentials.json"), { recursive: true });
    const unread = await run(["volumes", "ls"], works, { env });
    assert.deepEqual([unread.code, unread.err.split("\n").length], [2, 2], unread.err);
    const unsaved = await run(["login", "{url}", "--token", "x.y.z"], works, { env });
    assert.deepEqual([unsaved.code, unsaved.err.split("\n").length], [1, 2], unsaved.err);
    assert.deepEqual(await readdir(path.join(HOME, ".config/snapferry")), ["credentials.json"]);
  });

  test("none at all, or a damaged file, is a usage error that says what to do", async () => {
    const HOME = await home();
    const env = { HOME, SNAPFERRY_URL: "", SNAPFERRY_TOKEN: "" };
    const none = await run(["volumes", "ls"], works, { env });
    assert.equal(none.code, 2);
    assert.match(none.err, /snapferry login/);
    await run(["login", "{url}", "--token", "x"], works, { env });
    await writeFile(path.join(HOME, ".config/snapferry/credentials.json"), "{");
    assert.equal((await run(["volumes", "ls"], works, { env })).code, 2);
  });
});
