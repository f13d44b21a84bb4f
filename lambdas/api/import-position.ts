/** Where an import goes on: in this domain, behind this snapshot; behind none if empty. */
export interface ImportPosition {
  readonly domain: string;
  readonly snapshotId: string;
}

const positionPattern = /^([0-9a-f]{32})\/([A-Za-z0-9_-]{0,128})$/;

/** The position that a cursor held; undefined when it is none. */
export function parsePosition(text: string): ImportPosition | undefined {
  const [, domain, snapshotId] = positionPattern.exec(text) ?? [];
  return domain === undefined || snapshotId === undefined ? undefined : { domain, snapshotId };
}
