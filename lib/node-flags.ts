/** How Node runs the functions' code. The benchmark runs the engine in the same way. */
export const nodeFlags = [
  "--enable-source-maps",
  // MiB. Bodies of answers are many buffers that die at once; only a collection of young objects frees them. With Node's 16 MiB there are so
  // few of these that the memory of the buffers forces full collections instead: a fifth of the CPU of a restore.
  "--max-semi-space-size=1",
] as const;
