/** Services that a fault proxy makes of a good one by dropping headers, and the words in which they are refused. */

export interface UnfitStore {
  readonly what: string;
  /** Names of the headers that the service does not know. */
  readonly without: readonly string[];
  readonly words: RegExp;
}

export const unfitStores: readonly UnfitStore[] = [
  {
    what: "overwrites objects",
    without: ["if-none-match"],
    words: /overwrites an object although it was told not to \(If-None-Match: \* has no effect\)/,
  },
  {
    what: "does not check what it receives",
    without: ["x-amz-checksum-sha256", "x-amz-sdk-checksum-algorithm"],
    words: /accepts an object whose bytes are not what their SHA-256 tells/,
  },
  {
    what: "ignores ranges",
    without: ["range", "content-range"],
    words: /sends more of an object than the range asked for \(Range has no effect\)/,
  },
];
