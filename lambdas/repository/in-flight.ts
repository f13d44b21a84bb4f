/** Several tasks at once, but never more than a limit; the first failure ends the lot. */
export class InFlight {
  readonly #limit: number;
  readonly #running = new Set<Promise<void>>();
  #failure: { readonly error: unknown } | undefined;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Starts `task` as soon as there is room. Throws the first error of any task before it. */
  async launch(task: () => Promise<void>): Promise<void> {
    while (this.#running.size >= this.#limit) await Promise.race(this.#running);
    this.#throwFailure();
    const running: Promise<void> = task()
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  /** Waits for the tasks that were launched so far. Throws the first error of any of them. */
  async settle(): Promise<void> {
    await Promise.all(this.#running);
    this.#throwFailure();
  }

  /** Waits until nothing runs any more, whatever became of it: for clean-up on the way out. */
  async drain(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  #throwFailure(): void {
    if (this.#failure) throw this.#failure.error;
  }
}

/** Runs `work` on each item, at most `limit` at once. */
export async function forEachInFlight<T>(
  items: Iterable<T> | AsyncIterable<T>,
  limit: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const flights = new InFlight(limit);
  try {
    for await (const item of items) await flights.launch(() => work(item));
    await flights.settle();
  } finally {
    await flights.drain();
  }
}

/** `work` on each item, results in the items' order, up to `ahead` of them under way beyond the one that is waited for. */
export async function* mapAhead<T, Result>(
  items: Iterable<T> | AsyncIterable<T>,
  ahead: number,
  work: (item: T) => Promise<Result>,
): AsyncGenerator<Result> {
  const started: Promise<Result>[] = [];
  const start = (item: T) => {
    const result = work(item);
    result.catch(() => undefined);
    started.push(result);
  };
  for await (const item of items) {
    start(item);
    if (started.length > ahead) yield await started.shift()!;
  }
  while (started.length > 0) yield await started.shift()!;
}
