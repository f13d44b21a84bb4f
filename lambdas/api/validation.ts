/** What zod found, in plain words: which field, what it must be, what it was. */
import * as z from "zod";
import { didYouMean } from "./did-you-mean.ts";
import { type FieldError, invalidRequest, quoted } from "./problem.ts";

type Issue = z.core.$ZodIssue;
type Path = readonly PropertyKey[];

/** The body as its schema has it, defaults filled in. Throws a Problem that names every wrong field by its JSON pointer. */
export function parseBody<Schema extends z.ZodType>(schema: Schema, body: unknown): z.output<Schema> {
  return parse(schema, body, (path) => ({ pointer: jsonPointer(path) }), "field of this request");
}

/** The query parameters as their schema has them. Throws a Problem that names every wrong one. */
export function parseQuery<Schema extends z.ZodType>(
  schema: Schema,
  query: Readonly<Record<string, string>>,
): z.output<Schema> {
  return parse(schema, query, (path) => ({ parameter: String(path[0] ?? "") }), "parameter of this request");
}

/** A place in a JSON document (RFC 6901). */
export function jsonPointer(path: Path): string {
  return path.map((part) => `/${String(part).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}

function parse<Schema extends z.ZodType>(
  schema: Schema,
  value: unknown,
  place: (path: Path) => { pointer: string } | { parameter: string },
  what: string,
): z.output<Schema> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const errors = result.error.issues.flatMap((issue): FieldError[] => {
    if (issue.code === "unrecognized_keys") {
      const known = keysAt(schema, issue.path, value);
      return issue.keys.map((key) => ({ ...place([...issue.path, key]), detail: unknownField(key, known, what) }));
    }
    return [{ ...place(issue.path), detail: explainIssue(issue, valueAt(value, issue.path)) }];
  });
  throw invalidRequest(errors);
}

function unknownField(key: string, known: readonly string[], what: string): string {
  const meant = didYouMean(key, known);
  return `is not a ${what}${meant === undefined ? "" : `; did you mean ${meant}?`}`;
}

/** What is wrong with `value`, as the end of a sentence that begins with the field's name. Covers every kind of issue that zod has. */
export function explainIssue(issue: Issue, value: unknown): string {
  switch (issue.code) {
    case "invalid_type":
      if (value === undefined) return "is missing";
      return `must be ${typeInWords(issue.expected)}, not ${inWords(value)}`;
    case "invalid_value":
      return oneOf(issue.values, value);
    case "too_big":
      return `must ${sizeInWords(issue.origin, "at most", issue.maximum, issue.inclusive)}`;
    case "too_small":
      if (issue.origin === "string" && Number(issue.minimum) === 1) return "must not be empty";
      return `must ${sizeInWords(issue.origin, "at least", issue.minimum, issue.inclusive)}`;
    case "not_multiple_of":
      return `must be a multiple of ${issue.divisor}, not ${inWords(value)}`;
    case "invalid_format":
      return `is not a valid ${issue.format === "regex" ? "value" : issue.format}: ${inWords(value)}`;
    case "invalid_key":
      return `has a name that ${issue.issues.map((inner) => explainIssue(inner, issue.path.at(-1))).join(" and ")}`;
    case "invalid_element":
      return "has an entry that is not valid";
    case "invalid_union":
      if ("options" in issue && issue.options !== undefined) return oneOf(issue.options, value);
      return `is of no form that is allowed here: ${inWords(value)}`;
    case "unrecognized_keys":
      return `has fields that do not belong there: ${issue.keys.map(quoted).join(", ")}`;
    case "custom":
      return issue.message;
  }
}

function oneOf(allowed: readonly z.core.util.Primitive[], value: unknown): string {
  if (value === undefined) return "is missing";
  return `must be ${listed(allowed.map((one) => JSON.stringify(one) ?? String(one)))}, not ${inWords(value)}`;
}

const typesInWords: Readonly<Record<string, string>> = {
  string: "text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  object: "an object",
  record: "an object",
  array: "a list",
  null: "null",
};

function typeInWords(type: string): string {
  return typesInWords[type] ?? `a ${type}`;
}

/** The value itself where it is short, its kind where it is not. */
function inWords(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "an object";
  if (typeof value === "string") return quoted(value);
  return String(value);
}

function sizeInWords(origin: string, bound: "at most" | "at least", size: number | bigint, inclusive = true): string {
  if (origin === "string") return `have ${bound} ${counted(size, "character")}`;
  if (origin === "array" || origin === "set") return `have ${bound} ${counted(size, "entry", "entries")}`;
  const comparison = {
    "at most": inclusive ? "at most" : "less than",
    "at least": inclusive ? "at least" : "more than",
  };
  return `be ${comparison[bound]} ${size}`;
}

function counted(size: number | bigint, one: string, many = `${one}s`): string {
  return `${size} ${Number(size) === 1 ? one : many}`;
}

function listed(words: readonly string[]): string {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} or ${words.at(-1)}`;
}

function valueAt(value: unknown, path: Path): unknown {
  let here = value;
  for (const part of path) {
    if (typeof here !== "object" || here === null || !Object.hasOwn(here, part)) return undefined;
    here = (here as Record<PropertyKey, unknown>)[part];
  }
  return here;
}

/** The names that an object at this place of the schema may have; of several kinds of objects, one of the kind that `value` says it is. */
function keysAt(schema: z.ZodType, path: Path, value: unknown): string[] {
  let here = chosen(unwrapped(schema), value);
  path.forEach((part, depth) => {
    const { shape, element } = here as { shape?: Record<PropertyKey, unknown>; element?: unknown };
    here = chosen(unwrapped(shape?.[part] ?? element), valueAt(value, path.slice(0, depth + 1)));
  });
  return Object.keys((here as { shape?: object } | undefined)?.shape ?? {});
}

/** The schema inside optional, default and the like. */
function unwrapped(schema: unknown): unknown {
  let here = schema as { unwrap?: () => unknown; element?: unknown } | undefined;
  while (here && typeof here.unwrap === "function" && here.element === undefined) here = here.unwrap() as typeof here;
  return here;
}

/** The alternative of a discriminated union that `value` names. */
function chosen(schema: unknown, value: unknown): unknown {
  if (!(schema instanceof z.ZodDiscriminatedUnion)) return schema;
  const { discriminator } = schema.def;
  const name = valueAt(value, [discriminator]);
  return schema.options.find((option) => (option as z.ZodObject).shape[discriminator]?.safeParse(name).success);
}
