import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { countRequests, requestsSince } from "./s3-server.ts";

describe("requests", () => {
  it("are counted by operation, and those of before are left out", () => {
    const before = "… REST s3_PutObject key …\n… REST s3_HeadObject key …\n";
    const after = `${before}… REST s3_PutObject key …\n… REST s3_GetObject key …\n`;
    assert.deepEqual(requestsSince(countRequests(before), countRequests(after)), { PutObject: 1, GetObject: 1 });
  });
});
