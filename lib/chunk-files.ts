/** What the code of functions that read or write chunks loads later: the threads of the codec, and the client of ranges with its half a megabyte of library. */
export const chunkFiles: readonly string[] = [
  "lambdas/repository/codec-worker.ts",
  "lambdas/protocols/egress/dispatcher.ts",
];
