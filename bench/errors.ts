/** Something on this machine is missing, or a measurement went wrong. The message says what to do. */
export class BenchmarkError extends Error {
  override readonly name = "BenchmarkError";
}
