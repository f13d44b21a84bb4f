/** What functions that read or write chunks start as threads. */
export const codecThreads: readonly string[] = ["lambdas/repository/codec-worker.ts"];
