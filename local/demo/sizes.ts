/** Sizes as people write and read them. */

const units = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };

/** Bytes of `4GiB`, `1.5 GB`, `1000`. Undefined for anything else. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)?$/i.exec(text.trim());
  if (!match) return undefined;
  const unit = Object.entries(units).find(([name]) => name.toLowerCase() === (match[2] ?? "B").toLowerCase())?.[1];
  const bytes = Math.round(Number(match[1]) * (unit ?? Number.NaN));
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** `1.00 GiB`, `512 MiB`, `3 B`. */
export function formatSize(bytes: number): string {
  const [name, unit] = (["TiB", "GiB", "MiB", "KiB"] as const)
    .map((candidate) => [candidate, units[candidate]] as const)
    .find(([, value]) => bytes >= value) ?? ["B", 1];
  const value = bytes / unit;
  return `${unit === 1 || value >= 100 ? Math.round(value) : value.toFixed(2)} ${name}`;
}
