/** How Node runs the functions' code. The benchmark runs the engine in the same way. */
const nodeFlags = [
  "--enable-source-maps",
  // MiB. Bodies of answers are many buffers that die at once; only a collection of young objects frees them. With Node's 16 MiB there are so
  // few of these that the memory of the buffers forces full collections instead: a fifth of the CPU of a restore. With 1 MiB a small backup
  // collects a hundred times, with 4 MiB twenty times in half of the time.
  "--max-semi-space-size=4",
];

const mebibyte = 1024 * 1024;

export const nodeEnvironment: Readonly<Record<string, string>> = {
  NODE_OPTIONS: nodeFlags.join(" "),
  // zlib takes and frees some 100 KiB for each chunk. glibc would get these from the system and give them back each time, page by page: a tenth
  // of the CPU of a backup or a restore. So what is freed is kept.
  MALLOC_MMAP_THRESHOLD_: String(32 * mebibyte),
  MALLOC_TRIM_THRESHOLD_: String(64 * mebibyte),
};
