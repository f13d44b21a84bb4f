/** Change tracking on top of a hypervisor that has none: it knows of the writes that go through it, and of no others. */
import type {
  ExportDescriptor,
  Extent,
  Hypervisor,
  NewVolume,
  Quiesce,
  SnapshotRequest,
  TakenSnapshot,
} from "../../lambdas/hypervisors/port.ts";

interface Moment {
  readonly externalId: string;
  /** How many of the volume's writes the snapshot holds. */
  readonly writes: number;
}

export class TrackingHypervisor implements Hypervisor {
  readonly kind: string;
  readonly capabilities;
  /** What {@link changedExtents} answers instead of the truth, for tests of wrong answers. */
  distort: (changed: readonly Extent[]) => readonly Extent[] | undefined = (changed) => changed;
  readonly #under: Hypervisor;
  readonly #writes = new Map<string, Extent[]>();
  readonly #moments = new Map<string, Moment>();

  constructor(under: Hypervisor) {
    this.#under = under;
    this.kind = under.kind;
    this.capabilities = { ...under.capabilities, changeTracking: true };
  }

  /** To be called with every write; none may go on while a snapshot is taken. */
  recordWrite(externalId: string, range: Extent): void {
    this.#writes.set(externalId, [...(this.#writes.get(externalId) ?? []), range]);
  }

  /** From here on nothing is known of what was written before. */
  resetTracking(): void {
    this.#writes.clear();
    this.#moments.clear();
  }

  async takeSnapshots(requests: readonly SnapshotRequest[], options: { quiesce: Quiesce }): Promise<TakenSnapshot[]> {
    const taken = await this.#under.takeSnapshots(requests, options);
    for (const { externalId, snapshotId } of requests) {
      const writes = this.#writes.get(externalId)?.length ?? 0;
      if (!this.#moments.has(snapshotId)) this.#moments.set(snapshotId, { externalId, writes });
    }
    return taken;
  }

  async changedExtents(
    { snapshotId }: ExportDescriptor,
    since: { snapshotId: string; installPath: string },
  ): Promise<AsyncIterable<Extent> | undefined> {
    const [from, to] = [this.#moments.get(since.snapshotId), this.#moments.get(snapshotId)];
    if (!from || !to || from.externalId !== to.externalId || !this.#isEarlier(since.snapshotId, snapshotId))
      return undefined;
    const written = (this.#writes.get(to.externalId) ?? []).slice(from.writes, to.writes);
    const told = this.distort(merged(written));
    return told && each(told);
  }

  #isEarlier(earlier: string, later: string): boolean {
    const order = [...this.#moments.keys()];
    return order.indexOf(earlier) < order.indexOf(later);
  }

  check() {
    return this.#under.check();
  }
  listVolumes() {
    return this.#under.listVolumes();
  }
  describeVolume(externalId: string) {
    return this.#under.describeVolume(externalId);
  }
  plannedInstallPath(request: SnapshotRequest) {
    return this.#under.plannedInstallPath(request);
  }
  deleteSnapshot(installPath: string) {
    return this.#under.deleteSnapshot(installPath);
  }
  openExport(snapshot: { snapshotId: string; installPath: string }) {
    return this.#under.openExport(snapshot);
  }
  extents(descriptor: ExportDescriptor, range: Extent) {
    return this.#under.extents(descriptor, range);
  }
  openReader(descriptor: ExportDescriptor) {
    return this.#under.openReader(descriptor);
  }
  closeExport(descriptor: ExportDescriptor) {
    return this.#under.closeExport(descriptor);
  }
  createVolume(volume: NewVolume) {
    return this.#under.createVolume(volume);
  }
  openWriter(volume: NewVolume) {
    return this.#under.openWriter(volume);
  }
  publishVolume(volume: NewVolume) {
    return this.#under.publishVolume(volume);
  }
  discardVolume(volume: NewVolume) {
    return this.#under.discardVolume(volume);
  }
  forgetReplaced(volume: NewVolume) {
    return this.#under.forgetReplaced(volume);
  }
}

function merged(ranges: readonly Extent[]): Extent[] {
  const result: { offset: number; length: number }[] = [];
  for (const { offset, length } of [...ranges].sort((a, b) => a.offset - b.offset)) {
    const last = result.at(-1);
    if (last && offset <= last.offset + last.length) last.length = Math.max(last.length, offset + length - last.offset);
    else result.push({ offset, length });
  }
  return result;
}

async function* each(extents: readonly Extent[]): AsyncGenerator<Extent> {
  yield* extents;
}
