/** Bytes that changed on their way are no damage of the object that they are of. */
import { RepositoryDamaged } from "../domain/errors.ts";

/**
 * Runs `read`, and once more when it finds wrong bytes. Throws what the second run throws. For parts of objects: the store checks whole ones itself, by the
 * checksum that it keeps.
 */
export async function readAgainIfDamaged<T>(read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (!(error instanceof RepositoryDamaged)) throw error;
    return read();
  }
}
