/** More than a few sentences of a server's message help nobody. */
const maxShownCharacters = 600;

/** A text of the other side, fit for a line of a log: without control characters, and not too long. */
export function printable(text: string): string {
  return text
    .replaceAll(/\p{Cc}+/gu, " ")
    .trim()
    .slice(0, maxShownCharacters);
}
