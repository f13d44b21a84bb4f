/** A problem of the API on a terminal: what it is, each wrong field, and the way out as commands. */
import type { ApiProblem } from "./api-client.ts";
import { printable } from "./format.ts";

/** What the API names as a request, and the command that makes it. */
const commands: readonly (readonly [RegExp, string])[] = [
  [/GET \/v1\/jobs\/(job_\w+)/g, "snapferry jobs watch $1"],
  [/POST \/v1\/jobs\/(job_\w+)\/cancel/g, "snapferry jobs cancel $1"],
  [/POST \/v1\/snapshots\/(snap_\w+)\/backup/g, "snapferry snapshots backup $1"],
  [/DELETE \/v1\/snapshots\/(snap_\w+)/g, "snapferry snapshots rm $1"],
  [/POST \/v1\/hypervisors\/(hyp_\w+)\/discover/g, "snapferry hypervisors discover $1"],
  [/\?force=true/g, "--force"],
];

export function problemText(error: ApiProblem): string {
  const { problem, kind, status } = error;
  const detail = commands
    .reduce((text, [request, command]) => text.replaceAll(request, command), printable(problem.detail))
    .replaceAll(/\. (?=[A-Z])/g, ".\n");
  const fields = (problem.errors ?? []).map((field) => {
    const place =
      "pointer" in field ? field.pointer || "the body" : "parameter" in field ? field.parameter : field.header;
    return `  ${printable(place)} ${printable(field.detail)}`;
  });
  const trace = status >= 500 ? [`Request id: ${problem.requestId}`] : [];
  return `${[`${status} ${kind}: ${detail}`, ...fields, ...trace].join("\n")}\n`;
}
