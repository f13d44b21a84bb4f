/** A snapshot that is asked for while its KVM host is out of reach, through API, Step Functions and functions. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { globSync, readFileSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { after, test } from "node:test";
import { CreateSecretCommand } from "@aws-sdk/client-secrets-manager";
import { GetExecutionHistoryCommand } from "@aws-sdk/client-sfn";
import { cloud, eventually } from "../support/cloud.ts";
import { endedJob, snapshotIn } from "../support/volumes.ts";
import { AdapterHost } from "./adapter-host.ts";

const diskBytes = 4 * 2 ** 20;
const api = await cloud();
const host = await AdapterHost.start();
const subject = await host.makeSubject({ running: true });
const way = await wayTo(host.sshd.port);
after(async () => {
  await way.close();
  await subject[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
});

/** Another port of this machine that leads to this one. While it is blocked, connections break as soon as they are made. */
async function wayTo(port: number) {
  const open = new Set<Socket>();
  let blocked = false;
  const server = createServer((socket) => {
    const onward = connect(port, "127.0.0.1");
    for (const end of [socket, onward]) {
      open.add(end);
      end
        .on("error", () => {})
        .on("close", () => {
          open.delete(end);
          socket.destroy();
          onward.destroy();
        });
    }
    if (blocked) socket.destroy();
    else socket.pipe(onward).pipe(socket);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = () => {
    for (const socket of open) socket.destroy();
  };
  return {
    port: (server.address() as AddressInfo).port,
    block(on: boolean) {
      blocked = on;
      if (on) cut();
    },
    async close() {
      const closed = once(server, "close");
      server.close();
      cut();
      await closed;
    },
  };
}

function asAdministrator(method: string, path: string, body?: object) {
  return api.call(method, path, { role: "admin", ...(body && { body }) });
}

/** The errors of the tries to take it, so far. */
async function failedTries(jobId: string): Promise<(string | undefined)[]> {
  const arnPrefix = api.outputs.StateMachineArnPrefix?.replace(":stateMachine:", ":execution:");
  const { events = [] } = await api.clients.sfn.send(
    new GetExecutionHistoryCommand({ executionArn: `${arnPrefix}create-snapshot:${jobId}` }),
  );
  return events.flatMap(({ taskFailedEventDetails: details }) => (details ? [details.error] : []));
}

test("a snapshot is taken when its host is there again, and is one", async () => {
  const disk = await subject.makeVolume("disk", diskBytes);
  const secretId = `snapferry/acme/kvm-away-${host.sshd.port}`;
  await api.clients.secrets.send(new CreateSecretCommand({ Name: secretId, SecretString: host.sshd.userKey }));
  const registered = await asAdministrator("POST", "/hypervisors", {
    kind: "kvm",
    endpoint: `ssh://root@127.0.0.1:${way.port}`,
    hostKey: readFileSync(join(host.sshd.home, "host.pub"), "utf8").trim(),
    secretId,
    uri: host.uri,
  });
  assert.equal(registered.status, 201, JSON.stringify(registered.body));
  const { id } = registered.body;
  assert.equal((await asAdministrator("POST", `/hypervisors/${id}/discover`)).status, 200);
  const { body: volumes } = await api.call("GET", `/volumes?hypervisorId=${id}`);

  way.block(true);
  const asked = await api.call("POST", `/volumes/${volumes.items[0].id}/snapshots`, { body: { asyncBackup: true } });
  assert.equal(asked.status, 202, JSON.stringify(asked.body));
  const tries = await eventually("a try has failed", async () => {
    const failed = await failedTries(asked.body.job.id);
    return failed.length > 0 && failed;
  });
  assert.deepEqual([...new Set(tries)], ["HypervisorUnavailable"]);
  assert.equal((await snapshotIn(api, asked.body.snapshot.id, ["Creating", "Error"])).state, "Creating");
  assert.equal((await subject.diskOf(disk)).path, disk);

  way.block(false);
  const job = await endedJob(api, asked.body.job.id);
  assert.equal(job.state, "Succeeded", JSON.stringify(job));
  await snapshotIn(api, asked.body.snapshot.id, ["BackedUp"]);
  await eventually(
    "its export is closed",
    async () => globSync(`${host.sshd.home}/.snapferry/*/exports/*/pid`).length === 0,
  );
  assert.equal(await subject.countSnapshots(), 1);
});
