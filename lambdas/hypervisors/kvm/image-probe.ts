/** Looks at an image that somebody wants to be a disk, and of which no definition says what it is. */
import * as z from "zod";
import { OperationRefused, VolumeNotFound } from "../../domain/errors.ts";
import type { KvmHost } from "./host.ts";
import { commandError } from "./host-errors.ts";
import { type ImageFormat, imageFormats } from "./image-chain.ts";
import { parseOverlayPath } from "./overlay-path.ts";

const probeSchema = z.object({
  format: z.string(),
  "virtual-size": z.int().nonnegative(),
  "full-backing-filename": z.string().optional(),
  "format-specific": z.object({ data: z.looseObject({ "data-file": z.string().optional() }) }).optional(),
});

/**
 * Its format is found out from its bytes. A guest may have written them, so what makes QEMU open other files of the host is refused:
 * then a wrong guess shows a guest nothing but its own bytes. Throws VolumeNotFound, OperationRefused.
 */
export async function describeImage(host: KvmHost, path: string): Promise<{ format: ImageFormat; sizeBytes: number }> {
  const result = await host.exec(["qemu-img", "info", "--output=json", "-U", path]);
  if (result.stderr.includes("No such file or directory")) throw new VolumeNotFound(`There is no file ${path}.`);
  if (result.code !== 0) throw commandError("qemu-img info", result);
  const probe = probeSchema.parse(JSON.parse(result.stdout));
  const format = imageFormats.find((one) => one === probe.format);
  if (!format)
    throw new OperationRefused(`${path} is of the format ${probe.format}, not ${imageFormats.join(" or ")}.`);
  const other = probe["full-backing-filename"] ?? probe["format-specific"]?.data["data-file"];
  if (other !== undefined && !parseOverlayPath(path)) {
    throw new OperationRefused(`${path} needs another file, ${other}: only images that stand alone can be used.`);
  }
  return { format, sizeBytes: probe["virtual-size"] };
}
