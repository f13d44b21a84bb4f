/** A store as one worker among others sees it: every few requests it waits for its turn, and it dies at one of them. */
import type { ObjectStore } from "../../lambdas/repository/object-store.ts";

export class Killed extends Error {}

export function workerStore(
  store: ObjectStore,
  turn: () => Promise<unknown>,
  { pace, diesAfter = Number.POSITIVE_INFINITY }: { pace: number; diesAfter?: number | undefined },
): ObjectStore {
  let requests = 0;
  const step = async () => {
    if (requests % pace === 0) await turn();
    requests += 1;
    if (requests > diesAfter) throw new Killed();
  };
  const wrapped: ObjectStore = {
    put: async (...args) => step().then(() => store.put(...args)),
    get: async (...args) => step().then(() => store.get(...args)),
    head: async (...args) => step().then(() => store.head(...args)),
    list: async function* (...args) {
      await step();
      for (const listed of await collect(store.list(...args))) {
        yield listed;
        await step();
      }
    },
    deleteEveryVersion: async (keys) => {
      for (const key of keys) await step().then(() => store.deleteEveryVersion([key]));
    },
    deleteEveryVersionBelow: async (...args) => step().then(() => store.deleteEveryVersionBelow(...args)),
    retain: async (...args) => step().then(() => store.retain(...args)),
    retainedUntil: async (...args) => step().then(() => store.retainedUntil(...args)),
    objectLockEnabled: async () => step().then(() => store.objectLockEnabled()),
  };
  return wrapped;
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}
