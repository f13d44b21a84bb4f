/** Cursors of lists. They are opaque: base64url of what we need to go on, and whatever else comes back is refused. */
import * as z from "zod";
import type { ApiResponse } from "./http.ts";

const longestCursor = 512;
const cursorContent = z.strictObject({ after: z.string().min(1).max(255) });

/** The cursor of the page that follows the row `after`. */
export function encodeCursor(after: string): string {
  return Buffer.from(JSON.stringify({ after })).toString("base64url");
}

/** The answer that shows a page of a list. `next`: the row that it ends with, where more follow. */
export function pageAnswer(items: readonly unknown[], next: string | undefined): ApiResponse {
  return { status: 200, body: { items, ...(next === undefined ? {} : { nextCursor: encodeCursor(next) }) } };
}

/** The row that the page before ended with, or undefined when this was never a cursor of ours. */
export function decodeCursor(cursor: string): string | undefined {
  if (cursor.length > longestCursor || !/^[A-Za-z0-9_-]+$/.test(cursor)) return undefined;
  try {
    const content = cursorContent.safeParse(JSON.parse(Buffer.from(cursor, "base64url").toString("utf8")));
    return content.success ? content.data.after : undefined;
  } catch {
    return undefined;
  }
}
