/** What passes between the API and the function that makes rows for the backups in a store. */

/** Where an import goes on: in this domain, behind this snapshot; behind none if empty. */
export interface ImportPosition {
  readonly domain: string;
  readonly snapshotId: string;
}

const positionPattern = /^([0-9a-f]{32})\/([A-Za-z0-9_-]{0,128})$/;

/** The position that a text names; undefined when it names none. */
export function parsePosition(text: string): ImportPosition | undefined {
  const [, domain, snapshotId] = positionPattern.exec(text) ?? [];
  return domain === undefined || snapshotId === undefined ? undefined : { domain, snapshotId };
}

export function formatPosition({ domain, snapshotId }: ImportPosition): string {
  return `${domain}/${snapshotId}`;
}

export interface ImportRequest {
  readonly tenant: string;
  readonly storeId: string;
  /** Snapshots to look at, at most. */
  readonly limit: number;
  readonly after?: ImportPosition;
}

export interface ImportedPage {
  /** Snapshots that have rows now and had none. */
  readonly imported: readonly { readonly snapshotId: string; readonly volumeId: string }[];
  /** Snapshots that had rows already. */
  readonly known: number;
  readonly refused: readonly { readonly snapshotId: string; readonly domain: string; readonly reason: string }[];
  /** Absent at the end. */
  readonly next?: ImportPosition;
}

/** `problem`: why the store cannot be read; `passes`: whether it may be later, with nothing changed. */
export type ImportAnswer = ImportedPage | { readonly problem: string; readonly passes: boolean };
