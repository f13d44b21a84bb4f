import { createServer } from "node:net";
import { LocalCloudError } from "./errors.ts";

// Below the range from which Linux takes ports for outgoing connections (32768 and up), so that none of those is in the way
// in the seconds between choosing a port and listening on it.
const FIRST = 20_000;
const LAST = 32_000;
const ATTEMPTS = 50;

/**
 * Chooses a port on the loopback interface that nobody listens on.
 *
 * @param wanted what SNAPFERRY_PORT says
 * @throws LocalCloudError the wanted port is taken
 */
export async function choosePort(wanted: string | undefined): Promise<number> {
  if (wanted) {
    const port = Number(wanted);
    if (!Number.isInteger(port) || port < 1 || port > 65_535) {
      throw new LocalCloudError(
        `SNAPFERRY_PORT is "${wanted}", which is no port; take a number between 1024 and 65535.`,
      );
    }
    if (!(await isFree(port))) {
      throw new LocalCloudError(
        `Port ${port} (SNAPFERRY_PORT) is in use; name another, or none to have a free one chosen.`,
      );
    }
    return port;
  }
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const port = FIRST + Math.floor(Math.random() * (LAST - FIRST));
    if (await isFree(port)) return port;
  }
  throw new LocalCloudError(`No free port found between ${FIRST} and ${LAST}; name one: export SNAPFERRY_PORT=4566`);
}

function isFree(port: number): Promise<boolean> {
  return new Promise((done) => {
    const server = createServer();
    server.once("error", () => done(false));
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => done(true)));
  });
}
