import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Reconnecting } from "./reconnecting.ts";

interface Connection {
  readonly number: number;
  alive: boolean;
}

function opener() {
  const opened: Connection[] = [];
  const open = async (): Promise<Connection> => {
    const connection = { number: opened.length + 1, alive: true };
    opened.push(connection);
    return connection;
  };
  return { opened, reconnecting: new Reconnecting(open, ({ alive }) => alive) };
}

describe("a connection that is made anew", () => {
  it("is shared while it lives, also by those who come at once", async () => {
    const { opened, reconnecting } = opener();
    await Promise.all([reconnecting.connect(), reconnecting.connect(), reconnecting.connect()]);
    await reconnecting.connect();
    assert.equal(opened.length, 1);
  });

  it("is opened once by those who find it broken at the same time", async () => {
    const { opened, reconnecting } = opener();
    (await reconnecting.connect()).alive = false;
    const found = await Promise.all([reconnecting.connect(), reconnecting.connect()]);
    assert.deepEqual([found[0]!.number, found[1]!.number, opened.length], [2, 2, 2]);
  });

  it("is tried again by the next one after it could not be opened", async () => {
    let tries = 0;
    const reconnecting = new Reconnecting(
      async () => {
        if (++tries === 1) throw new Error("refused");
        return tries;
      },
      () => true,
    );
    await assert.rejects(reconnecting.connect(), /refused/);
    assert.equal(await reconnecting.connect(), 2);
  });

  it("is handed out once to be closed", async () => {
    const { reconnecting } = opener();
    assert.equal(await reconnecting.forget(), undefined);
    await reconnecting.connect();
    assert.equal((await reconnecting.forget())?.number, 1);
    assert.equal(await reconnecting.forget(), undefined);
    assert.equal((await reconnecting.connect()).number, 2);
  });
});
