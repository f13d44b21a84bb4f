/** The base's pages of a shard, fetched a few pages ahead of the copy. */
import type { ObjectStore } from "./object-store.ts";
import { type Page, readPage } from "./page.ts";
import type { PlannedPage } from "./planner.ts";
import { isDamage } from "./tree.ts";

/** Sparse volumes have many pages with little in them: eight requests at once hide a round trip of 20 ms. */
const pagesAhead = 8;

export class BasePages {
  readonly #source: { readonly store: ObjectStore; readonly domain: string };
  readonly #pages: readonly PlannedPage[];
  readonly #fetched = new Map<number, Promise<Page | undefined>>();
  #started: number;

  constructor(source: { store: ObjectStore; domain: string }, pages: readonly PlannedPage[], from: number) {
    this.#source = source;
    this.#pages = pages;
    this.#started = from;
  }

  /**
   * The base's page at the place of the shard's page `position`; undefined when the base has none there, or a damaged one: then the
   * chunks are written anew, which heals the next snapshot. Each position is asked for once, in ascending order.
   */
  async at(position: number): Promise<Page | undefined> {
    for (; this.#started < Math.min(position + pagesAhead, this.#pages.length); this.#started++) {
      const fetching = this.#fetch(this.#pages[this.#started]!);
      fetching.catch(() => undefined);
      this.#fetched.set(this.#started, fetching);
    }
    const page = this.#fetched.get(position);
    this.#fetched.delete(position);
    return page;
  }

  async #fetch(planned: PlannedPage): Promise<Page | undefined> {
    if (planned.base === undefined) return undefined;
    try {
      const page = await readPage(this.#source.store, this.#source.domain, planned.base);
      return page.index === planned.index ? page : undefined;
    } catch (error) {
      if (isDamage(error)) return undefined;
      throw error;
    }
  }
}
