/** Image files of a host and what each says to stand on, whoever made them. */
import * as z from "zod";
import { HypervisorMisconfigured } from "../../domain/errors.ts";
import type { KvmHost } from "./host.ts";

/** A file and the file directly below it. */
export interface ImageFile {
  readonly path: string;
  readonly below: { readonly path: string; readonly format: string | undefined } | undefined;
  /** Of the volume that it shows, bytes. */
  readonly sizeBytes: number;
}

const imageSchema = z.object({
  filename: z.string(),
  "virtual-size": z.int().nonnegative(),
  "full-backing-filename": z.string().optional(),
  "backing-filename-format": z.string().optional(),
});

/** 20,000 images of 800 bytes each. */
const maxOutputBytes = 16 * 1024 * 1024;
/** 20,000 images at 10 ms each, and as much again. */
const scanSeconds = 400;

/**
 * All images in `folder`, those of `others`, and those that these stand on wherever they lie, by path. Files that are no images, or gone,
 * are left out. `raw`: files whose first bytes a guest may have written, and which are not asked what they stand on.
 */
export async function imageFiles(
  host: KvmHost,
  folder: string,
  others: readonly string[] = [],
  raw: ReadonlySet<string> = new Set(),
): Promise<ReadonlyMap<string, ImageFile>> {
  const found = new Map<string, ImageFile>();
  const asked = new Set<string>();
  for (let next = [folder, ...others]; next.length > 0; ) {
    for (const path of next) asked.add(path);
    for (const image of await scan(host, next, raw)) found.set(image.path, image);
    const below = new Set([...found.values()].flatMap((image) => image.below?.path ?? []));
    next = [...below].filter((path) => !found.has(path) && !asked.has(path));
  }
  return found;
}

/** `places`: files, and folders whose files are meant. */
async function scan(host: KvmHost, places: readonly string[], raw: ReadonlySet<string>): Promise<ImageFile[]> {
  const look = ["-exec", "qemu-img", "info", "--output=json", "-U", "{}", ";"];
  // A folder may be given by a link to it, and an image may be one.
  const argv = ["find", "-H", ...places, "-maxdepth", "1", "-xtype", "f", ...look];
  const { stdout, stderr } = await host.exec(argv, { maxOutputBytes, timeoutSeconds: scanSeconds });
  if (stderr.includes("Permission denied")) {
    throw new HypervisorMisconfigured(`The user may not look at all image files of the host: ${stderr.trim()}`);
  }
  return parseImages(stdout).map((image) => (raw.has(image.path) ? { ...image, below: undefined } : image));
}

/** Takes apart what several runs of `qemu-img info` wrote one after another. */
export function parseImages(output: string): ImageFile[] {
  return output
    .split(/(?<=^\})\n/m)
    .filter((text) => text.trim() !== "")
    .map((text) => {
      const image = imageSchema.parse(JSON.parse(text));
      const below = image["full-backing-filename"];
      return {
        path: image.filename,
        below: below === undefined ? undefined : { path: below, format: image["backing-filename-format"] },
        sizeBytes: image["virtual-size"],
      };
    });
}

/** The one path of each file, without links, by the path that was given. */
export async function realPaths(host: KvmHost, paths: Iterable<string>): Promise<ReadonlyMap<string, string>> {
  const given = [...new Set(paths)];
  if (given.length === 0) return new Map();
  const output = await host.run(["realpath", "--canonicalize-missing", "--zero", "--", ...given], { maxOutputBytes });
  const real = output.split("\0");
  return new Map(given.map((path, index) => [path, real[index]!]));
}
