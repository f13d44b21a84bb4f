/** What `qemu-img info` says of an image file and of those below it. */
import * as z from "zod";
import { HypervisorFailed } from "../../domain/errors.ts";

export const imageFormats = ["raw", "qcow2"] as const;
export type ImageFormat = (typeof imageFormats)[number];

/** One file of a chain. */
export interface ImageLayer {
  readonly path: string;
  readonly format: string;
  /** Of the volume that it shows, bytes. */
  readonly sizeBytes: number;
  /** Bytes that the file takes on its file system. */
  readonly allocatedBytes: number;
  /** By QEMU itself, with a key that only the VM's definition names. */
  readonly encrypted: boolean;
}

const layerSchema = z.object({
  filename: z.string(),
  format: z.string(),
  "virtual-size": z.int().nonnegative(),
  "actual-size": z.int().nonnegative().default(0),
  encrypted: z.boolean().default(false),
  "full-backing-filename": z.string().optional(),
  "backing-filename-format": z.string().optional(),
});

/**
 * The chain from the file that was asked for down to the one that stands on nothing. Throws HypervisorFailed for a file that names no
 * format of the one below: what a guest wrote at the beginning of a raw file could pass for another format, with any file of the host
 * below it.
 */
export function parseImageChain(json: string): readonly ImageLayer[] {
  const layers = z.array(layerSchema).min(1).parse(JSON.parse(json));
  for (const layer of layers) {
    if (layer["full-backing-filename"] !== undefined && layer["backing-filename-format"] === undefined) {
      throw new HypervisorFailed(
        `${layer.filename} does not say of which format the file below it is: qemu-img rebase -u -F writes it down.`,
      );
    }
  }
  return layers.map((layer) => ({
    path: layer.filename,
    format: layer.format,
    sizeBytes: layer["virtual-size"],
    allocatedBytes: layer["actual-size"],
    encrypted: layer.encrypted,
  }));
}
