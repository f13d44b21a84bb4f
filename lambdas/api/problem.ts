/** Problems (RFC 9457): what every answer that is not a success looks like. */

/** One thing that is wrong with the request: a place in the body (JSON pointer), a query parameter or a header, and what is wrong there. */
export type FieldError = { readonly detail: string } & (
  | { readonly pointer: string }
  | { readonly parameter: string }
  | { readonly header: string }
);

export interface ProblemExtras {
  readonly errors?: readonly FieldError[];
  readonly headers?: Readonly<Record<string, string>>;
  /** Further members of the problem, such as the jobs that stand in the way. */
  readonly members?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/** The body of an answer of type `application/problem+json`. */
export interface ProblemBody {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly instance: string;
  readonly requestId: string;
  readonly errors?: readonly FieldError[];
  readonly [member: string]: unknown;
}

/** The kinds of problems: what follows `/problems/` in `type`, with its status and title. The API's documentation lists them. */
export const problemKinds = {
  "invalid-request": { status: 400, title: "The request is not valid" },
  "malformed-json": { status: 400, title: "The body is not JSON" },
  unauthorized: { status: 401, title: "A valid token is needed" },
  forbidden: { status: 403, title: "The token's role does not allow this" },
  "not-found": { status: 404, title: "There is no such thing" },
  "snapshot-is-destroyed": { status: 404, title: "The snapshot is gone" },
  "method-not-allowed": { status: 405, title: "The method is not allowed here" },
  conflict: { status: 409, title: "The state of things does not allow this now" },
  "snapshot-is-being-created": { status: 409, title: "The snapshot is being created" },
  "snapshot-is-backing-up": { status: 409, title: "The snapshot is being backed up" },
  "snapshot-is-being-copied": { status: 409, title: "The snapshot is being copied" },
  "snapshot-is-being-deleted": { status: 409, title: "The snapshot is being deleted" },
  "snapshot-is-being-read": { status: 409, title: "The snapshot is being read" },
  "snapshot-is-locked": { status: 409, title: "The snapshot is locked" },
  "snapshot-is-not-backed-up": { status: 409, title: "The snapshot is not backed up" },
  "snapshot-is-backed-up": { status: 409, title: "The snapshot is backed up already" },
  "backup-is-queued": { status: 409, title: "The backup is queued already" },
  "primary-copy-is-gone": { status: 409, title: "Nothing is left to back up from" },
  "primary-chain-is-full": { status: 409, title: "The volume has too many snapshots on primary storage" },
  "volume-is-restoring": { status: 409, title: "The volume is being restored" },
  "volume-is-missing": { status: 409, title: "The volume is not on its hypervisor any more" },
  "volume-is-unprotected": { status: 409, title: "The volume is taken out of protection" },
  "volume-is-unsupported": { status: 409, title: "The volume cannot be backed up" },
  "vm-is-backing-up": { status: 409, title: "A disk of the VM is being backed up" },
  "vm-is-being-operated": { status: 409, title: "Something is being done to the VM already" },
  "vm-is-running": { status: 409, title: "The VM is not stopped" },
  "vm-is-missing": { status: 409, title: "The VM is not on its hypervisor any more" },
  "vm-has-other-disks": { status: 409, title: "Not all of the VM's disks can be taken" },
  "vm-name-taken": { status: 409, title: "The name of the VM is taken" },
  "operation-refused": { status: 409, title: "The hypervisor refuses the operation" },
  "volume-name-taken": { status: 409, title: "The name is taken" },
  "job-has-ended": { status: 409, title: "The job has ended" },
  "hypervisor-in-use": { status: 409, title: "The hypervisor is in use" },
  "store-in-use": { status: 409, title: "The store is in use" },
  "too-large": { status: 413, title: "The body is too large" },
  "unsupported-media-type": { status: 415, title: "The body is of the wrong type" },
  "idempotency-key-reused": { status: 422, title: "The idempotency key belongs to another request" },
  "internal-error": { status: 500, title: "Something went wrong on our side" },
  unavailable: { status: 503, title: "A service that is needed cannot be reached" },
  "timed-out": { status: 504, title: "The request took too long" },
} as const satisfies Record<string, { status: number; title: string }>;

export type ProblemKind = keyof typeof problemKinds;

/** Thrown where the problem is found; the `problems` middleware turns it into the answer. */
export class Problem extends Error {
  override readonly name = "Problem";
  readonly kind: ProblemKind;
  readonly extras: ProblemExtras;

  constructor(kind: ProblemKind, detail: string, extras: ProblemExtras = {}) {
    super(detail, extras.cause === undefined ? undefined : { cause: extras.cause });
    this.kind = kind;
    this.extras = extras;
  }

  get status(): number {
    return problemKinds[this.kind].status;
  }

  /** The answer's body. */
  body(request: { instance: string; requestId: string }): ProblemBody {
    const { status, title } = problemKinds[this.kind];
    return {
      type: `/problems/${this.kind}`,
      title,
      status,
      detail: this.message,
      ...request,
      ...(this.extras.errors === undefined ? {} : { errors: this.extras.errors }),
      ...this.extras.members,
    };
  }
}

/** About as long as throttling lasts once callers hold back. */
const retryAfterSeconds = 5;

/** Something that is needed does not work now: the same request may succeed after a while. `cause` goes to the log. */
export function unavailable(detail: string, cause: unknown): Problem {
  return new Problem("unavailable", detail, { headers: { "Retry-After": String(retryAfterSeconds) }, cause });
}

/** More wrong fields than this are counted but not listed. */
const mostErrors = 20;

/** A request with these fields wrong. `detail` counts them. */
export function invalidRequest(errors: readonly FieldError[]): Problem {
  const count = errors.length === 1 ? "1 field is wrong." : `${errors.length} fields are wrong.`;
  if (errors.length <= mostErrors) return new Problem("invalid-request", count, { errors });
  const detail = `${count} The first ${mostErrors} are listed.`;
  return new Problem("invalid-request", detail, { errors: errors.slice(0, mostErrors) });
}

/** Ids of other tenants and ids that never were get the same answer. `where` is given when a field of the request names the id. */
export function notFound(what: string, id: string, where?: { pointer: string }): Problem {
  const detail = `There is no ${what} ${quoted(id)}.`;
  if (where === undefined) return new Problem("not-found", detail);
  return new Problem("not-found", detail, { errors: [{ ...where, detail: `there is no such ${what}` }] });
}

const longestQuote = 60;

/** Somebody else's text, fit to stand in a sentence: on one line and shortened. */
export function quoted(text: string): string {
  const characters = [...text.slice(0, 2 * longestQuote)];
  const short = characters.length > longestQuote ? `${characters.slice(0, longestQuote - 1).join("")}…` : text;
  return JSON.stringify(short.toWellFormed());
}
