/** Where everything lies below the store's prefix. `docs/repository-format.md` describes what is in it. */

/** What domains, snapshots and jobs may be called: safe as one part of a key on every store. */
const plainName = /^[A-Za-z0-9_-]{1,128}$/;

function plain(what: string, name: string): string {
  if (!plainName.test(name))
    throw new TypeError(`The ${what} ${JSON.stringify(name)} is not a name of 1 to 128 [A-Za-z0-9_-].`);
  return name;
}

export function isPlainName(name: string): boolean {
  return plainName.test(name);
}

/** The keys of one dedup domain. */
export function domainKeys(domain: string) {
  const root = `domains/${plain("domain", domain)}/`;
  return {
    record: `${root}domain.json`,
    packs: `${root}packs/`,
    pages: `${root}pages/`,
    roots: `${root}roots/`,
    jobs: `${root}jobs/`,
    dropped: `${root}dropped/`,
    pack: (packName: string) => `${root}packs/${packName}`,
    compacted: (packName: string, generation: number) => `${root}packs/${packName}.${generation}`,
    page: (pageName: string) => `${root}pages/${pageName}`,
    root: (snapshotId: string) => `${root}roots/${plain("snapshot", snapshotId)}`,
    drop: (snapshotId: string, token: string) => `${root}dropped/${plain("snapshot", snapshotId)}-${token}`,
  };
}

/** The keys of one job in a domain. */
export function jobKeys(domain: string, jobId: string) {
  const root = `${domainKeys(domain).jobs}${plain("job", jobId)}/`;
  return {
    all: root,
    pin: `${root}pin`,
    base: `${root}base`,
    plan: `${root}plan`,
    selection: `${root}selection`,
    verified: `${root}verified`,
    distrusted: `${root}distrusted`,
    unhinted: `${root}unhinted`,
    resultsOfAll: `${root}results/`,
    checkpointsOfAll: `${root}checkpoints/`,
    results: (shard: number) => `${root}results/${shard}-`,
    checkpoints: (shard: number) => `${root}checkpoints/${shard}-`,
    result: (shard: number, attempt: number) => `${root}results/${shard}-${attempt}`,
    checkpoint: (shard: number, attempt: number) => `${root}checkpoints/${shard}-${attempt}`,
    restore: `${root}restore/`,
    restorePlan: `${root}restore/plan`,
  };
}

/** Numbers in names have 9 digits at most. */
const maxNameNumber = 999_999_999;

/** A number of an object that becomes a part of a name. */
export function isNameNumber(value: number): boolean {
  return value <= maxNameNumber;
}

/** A pack's name: who wrote it, and where in that writer's output it comes. `token` is 16 hex digits, new for every invocation. */
export interface PackName {
  readonly jobId: string;
  readonly attempt: number;
  readonly shard: number;
  readonly token: string;
  readonly sequence: number;
}

const packPattern = /^([A-Za-z0-9_-]{1,128})\/(\d{1,9})-(\d{1,9})-([0-9a-f]{16})-(\d{1,9})$/;

export function formatPackName(name: PackName): string {
  return `${name.jobId}/${name.attempt}-${name.shard}-${name.token}-${name.sequence}`;
}

/** Undefined when `text` is not a pack's name. */
export function parsePackName(text: string): PackName | undefined {
  const match = packPattern.exec(text);
  if (!match) return undefined;
  const [, jobId, attempt, shard, token, sequence] = match;
  return { jobId: jobId!, attempt: Number(attempt), shard: Number(shard), token: token!, sequence: Number(sequence) };
}

/** One digit, so that the forms of a pack are listed in the order in which they came, right behind the pack itself. */
export const maxGeneration = 9;

const compactedPattern = /^(.+)\.([1-9])$/;

/** The pack (its key, or its name) that an object in `packs/` is, or is a compacted form of; generation 0 is the pack itself. */
export function originalPack(key: string): { readonly pack: string; readonly generation: number } {
  const match = compactedPattern.exec(key);
  return match ? { pack: match[1]!, generation: Number(match[2]) } : { pack: key, generation: 0 };
}

/** A page's name: who wrote it, and the SHA-256 (hex) of the whole object. */
export interface PageName {
  readonly jobId: string;
  readonly attempt: number;
  readonly sha256: string;
}

const pagePattern = /^([A-Za-z0-9_-]{1,128})\/(\d{1,9})-([0-9a-f]{64})$/;

export function formatPageName(name: PageName): string {
  return `${name.jobId}/${name.attempt}-${name.sha256}`;
}

/** Undefined when `text` is not a page's name. */
export function parsePageName(text: string): PageName | undefined {
  const match = pagePattern.exec(text);
  return match ? { jobId: match[1]!, attempt: Number(match[2]), sha256: match[3]! } : undefined;
}

/** The number after the last `-` of a result's or a checkpoint's key. */
export function attemptOfKey(key: string): number {
  return Number(key.slice(key.lastIndexOf("-") + 1));
}
