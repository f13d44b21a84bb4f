/** A client of the API: one typed method for each operation, on nothing but `fetch`. */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { ProblemBody } from "../lambdas/api/problem.ts";
import type {
  ChangeStoreInput,
  CreateSnapshotInput,
  CreateVmSnapshotInput,
  OperateVmInput,
  RegisterHypervisorInput,
  RegisterStoreInput,
  RestoreInput,
} from "../lambdas/api/request-schemas.ts";
import type {
  Discovery,
  Forgotten,
  HypervisorRepresentation,
  ImportReport,
  JobRepresentation,
  SnapshotLocation,
  SnapshotRepresentation,
  StoreRepresentation,
  VmOperationsRepresentation,
  VmRepresentation,
  VmSnapshotRepresentation,
  VolumeRepresentation,
} from "../lambdas/api/response-schemas.ts";

export type Job = JobRepresentation;
export type Snapshot = SnapshotRepresentation;
export type Volume = VolumeRepresentation;
export type Vm = VmRepresentation;
export type VmOperations = VmOperationsRepresentation;
export type VmSnapshot = VmSnapshotRepresentation;
export type Hypervisor = HypervisorRepresentation;
export type Store = StoreRepresentation;
export type { Discovery, Forgotten, ImportReport, ProblemBody, SnapshotLocation };

export interface Page<Item> {
  readonly items: readonly Item[];
  readonly nextCursor?: string;
}

export interface JobAndSnapshot {
  readonly job: Job;
  readonly snapshot: Snapshot;
}

/** The API refused, or failed, and said why. */
export class ApiProblem extends Error {
  override readonly name = "ApiProblem";
  readonly status: number;
  readonly problem: ProblemBody;
  /** How long to wait before the next try, where the API says so. */
  readonly retryAfterSeconds: number;

  constructor(problem: ProblemBody, retryAfterSeconds = 0) {
    super(problem.detail);
    this.status = problem.status;
    this.problem = problem;
    this.retryAfterSeconds = retryAfterSeconds;
  }

  /** The last part of the problem's type: `snapshot-is-backing-up`. */
  get kind(): string {
    return this.problem.type.split("/").at(-1) ?? "";
  }
}

/** Nobody answered, or not as the API does. */
export class ApiUnreachable extends Error {
  override readonly name = "ApiUnreachable";
}

export interface ClientOptions {
  /** Where the API is, with or without `/v1`. */
  readonly url: string;
  readonly token?: string;
  /** Tries of one request in all; 4 if absent. */
  readonly tries?: number;
}

export interface WaitOptions {
  /** Seconds to hold the answer back until the job has ended, 25 at most. */
  readonly wait?: number;
}

export interface WriteOptions extends WaitOptions {
  /** A key of one's own makes a request repeatable across processes. */
  readonly idempotencyKey?: string;
}

export interface PageOptions {
  readonly limit?: number;
  readonly cursor?: string;
}

type Query = Readonly<Record<string, string | number | boolean | undefined>>;

interface RequestOptions extends WriteOptions {
  readonly query?: Query;
  readonly body?: unknown;
}

export type Client = ReturnType<typeof createClient>;

/** A client for one URL and token. Its methods throw {@link ApiProblem} or {@link ApiUnreachable}. */
export function createClient(options: ClientOptions) {
  const requester = new Requester(options);
  const { get, post, patch, remove } = requester;
  return {
    volumes: {
      list: (query: PageOptions & { hypervisorId?: string } = {}) =>
        get<Page<Volume>>("/volumes", { query: { ...query } }),
      get: (id: string) => get<Volume>(`/volumes/${part(id)}`),
      /** A volume that is unprotected, or protected, already is answered as it is. */
      unprotect: (id: string) => post<Volume>(`/volumes/${part(id)}/unprotect`, { body: {} }),
      protect: (id: string) => post<Volume>(`/volumes/${part(id)}/protect`, { body: {} }),
    },
    vms: {
      list: (query: PageOptions & { hypervisorId?: string } = {}) => get<Page<Vm>>("/vms", { query: { ...query } }),
      get: (id: string) => get<Vm>(`/vms/${part(id)}`),
      snapshot: (id: string, body: CreateVmSnapshotInput = {}, write: WriteOptions = {}) =>
        post<VmSnapshot>(`/vms/${part(id)}/snapshots`, { body, ...write }),
      snapshots: (id: string, query: PageOptions & { state?: string } = {}) =>
        get<Page<Snapshot>>(`/vms/${part(id)}/snapshots`, { query: { ...query } }),
      operations: (id: string) => get<VmOperations>(`/vms/${part(id)}/operations`),
      operate: (id: string, body: OperateVmInput, write: WriteOptions = {}) =>
        post<Vm>(`/vms/${part(id)}/operations`, { body, ...write }),
    },
    snapshots: {
      create: (volumeId: string, body: CreateSnapshotInput = {}, write: WriteOptions = {}) =>
        post<JobAndSnapshot>(`/volumes/${part(volumeId)}/snapshots`, { body, ...write }),
      list: (query: PageOptions & { volumeId?: string; state?: string } = {}) =>
        get<Page<Snapshot>>("/snapshots", { query: { ...query } }),
      get: (id: string) => get<Snapshot>(`/snapshots/${part(id)}`),
      delete: (id: string, wait: WaitOptions = {}) => remove<JobAndSnapshot>(`/snapshots/${part(id)}`, wait),
      restore: (id: string, body: RestoreInput, write: WriteOptions = {}) =>
        post<JobAndSnapshot & { volume: Volume }>(`/snapshots/${part(id)}/restore`, { body, ...write }),
      location: (id: string) => get<SnapshotLocation>(`/snapshots/${part(id)}/location`),
      backup: (id: string, write: WriteOptions = {}) =>
        post<JobAndSnapshot>(`/snapshots/${part(id)}/backup`, { body: {}, ...write }),
    },
    jobs: {
      list: (query: PageOptions & { state?: string; kind?: string; snapshotId?: string } = {}) =>
        get<Page<Job>>("/jobs", { query: { ...query } }),
      get: (id: string, wait: WaitOptions = {}) => get<Job>(`/jobs/${part(id)}`, wait),
      cancel: (id: string, wait: WaitOptions = {}) =>
        post<{ job: Job }>(`/jobs/${part(id)}/cancel`, { body: {}, ...wait }),
    },
    hypervisors: {
      register: (body: RegisterHypervisorInput, write: WriteOptions = {}) =>
        post<Hypervisor>("/hypervisors", { body, ...write }),
      list: (query: PageOptions = {}) => get<Page<Hypervisor>>("/hypervisors", { query: { ...query } }),
      get: (id: string) => get<Hypervisor>(`/hypervisors/${part(id)}`),
      discover: (id: string) => post<Discovery>(`/hypervisors/${part(id)}/discover`, { body: {} }),
      delete: (id: string, query: { force?: boolean } = {}) =>
        remove<Forgotten>(`/hypervisors/${part(id)}`, { query: { ...query } }),
    },
    stores: {
      register: (body: RegisterStoreInput, write: WriteOptions = {}) => post<Store>("/stores", { body, ...write }),
      list: (query: PageOptions = {}) => get<Page<Store>>("/stores", { query: { ...query } }),
      get: (id: string) => get<Store>(`/stores/${part(id)}`),
      /** What has rows already is left alone, so that it may be repeated. */
      import: (id: string, query: PageOptions = {}) =>
        post<ImportReport>(`/stores/${part(id)}/import`, { query: { ...query }, body: {} }),
      change: (id: string, body: ChangeStoreInput) => patch<Store>(`/stores/${part(id)}`, { body }),
      delete: (id: string, query: { force?: boolean } = {}) =>
        remove<Forgotten>(`/stores/${part(id)}`, { query: { ...query } }),
    },
    health: () => get<{ status: string; version: string }>("/health"),
    openapi: () => get<Record<string, unknown>>("/openapi.json"),
  };
}

/** Every item of a list, page by page. */
export async function* everyItem<Item>(list: (page: PageOptions) => Promise<Page<Item>>): AsyncGenerator<Item> {
  let cursor: string | undefined;
  do {
    const page = await list({ limit: 100, ...(cursor === undefined ? {} : { cursor }) });
    yield* page.items;
    cursor = page.nextCursor;
  } while (cursor !== undefined);
}

/** A request is held back for 25 s at most; API Gateway gives up after 29 s. */
const requestMilliseconds = 35_000;
const firstPauseMilliseconds = 200;
/** Whoever asks for a longer pause than that is not waited for. */
const longestRetryAfterSeconds = 10;
/** What a gateway answers when what is behind it does not. */
const passing: ReadonlySet<number> = new Set([429, 502, 503, 504]);

class Requester {
  readonly #base: string;
  readonly #token: string | undefined;
  readonly #tries: number;

  constructor({ url, token, tries = 4 }: ClientOptions) {
    this.#base = `${url.replace(/\/+$/, "").replace(/\/v1$/, "")}/v1`;
    this.#token = token;
    this.#tries = tries;
  }

  readonly get = <Answer>(path: string, options: RequestOptions = {}) =>
    this.#repeated(() => this.#once<Answer>("GET", path, options));

  /** Every POST carries a key, so that it may be repeated when its answer is lost. */
  readonly post = <Answer>(path: string, options: RequestOptions) => {
    const keyed = { ...options, idempotencyKey: options.idempotencyKey ?? randomUUID() };
    return this.#repeated(() => this.#once<Answer>("POST", path, keyed));
  };

  /** The same change again changes nothing. */
  readonly patch = <Answer>(path: string, options: RequestOptions) =>
    this.#repeated(() => this.#once<Answer>("PATCH", path, options));

  readonly remove = <Answer>(path: string, options: RequestOptions = {}) => this.#once<Answer>("DELETE", path, options);

  async #repeated<Answer>(attempt: () => Promise<Answer>): Promise<Answer> {
    for (let tries = 1; ; tries++) {
      try {
        return await attempt();
      } catch (error) {
        const worthATry = error instanceof ApiUnreachable || (error instanceof ApiProblem && passing.has(error.status));
        const asked = error instanceof ApiProblem ? error.retryAfterSeconds : 0;
        if (!worthATry || tries >= this.#tries || asked > longestRetryAfterSeconds) throw error;
        await sleep(asked * 1000 + firstPauseMilliseconds * 2 ** (tries - 1) * (0.5 + Math.random()));
      }
    }
  }

  async #once<Answer>(method: string, path: string, options: RequestOptions): Promise<Answer> {
    const { query = {}, body, wait, idempotencyKey } = options;
    const response = await this.#fetch(`${this.#base}${path}${queryText(query)}`, {
      method,
      redirect: "error",
      signal: AbortSignal.timeout(requestMilliseconds),
      headers: {
        accept: "application/json",
        ...(this.#token === undefined ? {} : { authorization: `Bearer ${this.#token}` }),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...(wait === undefined ? {} : { prefer: `wait=${wait}` }),
        ...(idempotencyKey === undefined ? {} : { "idempotency-key": idempotencyKey }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const answer = await this.#json(response);
    if (response.ok) return answer as Answer;
    throw asError(response, answer, this.#base);
  }

  async #fetch(url: string, init: RequestInit): Promise<Response> {
    try {
      return await fetch(url, init);
    } catch (error) {
      throw new ApiUnreachable(`${this.#base} cannot be reached: ${reasonOf(error)}`, { cause: error });
    }
  }

  async #json(response: Response): Promise<unknown> {
    try {
      return JSON.parse(await response.text());
    } catch (error) {
      throw new ApiUnreachable(`${this.#base} answered ${response.status} with something that is not JSON`, {
        cause: error,
      });
    }
  }
}

/** A problem of the API, or what a gateway before it made of one. */
function asError(response: Response, answer: unknown, base: string): Error {
  const { type, title, detail, message } = (answer ?? {}) as Partial<Record<string, string>>;
  if (typeof type === "string" && typeof title === "string" && typeof detail === "string")
    return new ApiProblem({ ...(answer as ProblemBody), status: response.status }, retryAfterOf(response));
  return new ApiUnreachable(`${base} answered ${response.status}${typeof message === "string" ? `: ${message}` : ""}`);
}

/** Seconds. An answer with a date in the header counts as one without. */
function retryAfterOf({ headers }: Response): number {
  const text = headers.get("retry-after") ?? "";
  return /^\d{1,9}$/.test(text) ? Number(text) : 0;
}

function queryText(query: Query): string {
  const given = Object.entries(query).flatMap(([name, value]): [string, string][] =>
    value === undefined ? [] : [[name, String(value)]],
  );
  return given.length === 0 ? "" : `?${new URLSearchParams(given)}`;
}

function part(id: string): string {
  return encodeURIComponent(id);
}

/** `fetch` says only that it failed; the cause says why. */
function reasonOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  if (!(cause instanceof Error)) return String(cause);
  return cause.message || String((cause as NodeJS.ErrnoException).code ?? cause.name);
}
