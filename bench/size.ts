/** Sizes as people write them: `4GiB`, `512MiB`, `65536`. */
import { InvalidArgumentError } from "commander";

const units = { "": 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3, TiB: 1024 ** 4 } as const;

/** Bytes. Throws InvalidArgumentError, which the command line shows with the option's name. */
export function parseSize(text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*([KMGT]iB)?$/.exec(text) ?? [];
  const bytes = Number(number) * units[(unit ?? "") as keyof typeof units];
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes;
  throw new InvalidArgumentError(`"${text}" is no size; write 4GiB or 512MiB.`);
}

/** `4GiB`, for names of files and tables. */
export function formatSize(bytes: number): string {
  for (const [unit, factor] of Object.entries(units).reverse()) {
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor}${unit}`;
  }
  return String(bytes);
}
