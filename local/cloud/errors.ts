/** Something on this machine is missing or in the way. The message is one sentence that says what to do. */
export class LocalCloudError extends Error {
  override readonly name = "LocalCloudError";
}
