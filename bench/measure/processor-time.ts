/** Processor time as Linux counts it, in seconds. */
import { readFileSync } from "node:fs";

/** /proc counts in ticks of a hundredth of a second on every platform that Node runs on. */
const ticksPerSecond = 100;

/** User and system time of one running process so far. */
export function processSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

/** Time that all processors together were busy since the machine was started. */
export function busySeconds(): number {
  const [total = ""] = readFileSync("/proc/stat", "utf8").split("\n", 1);
  const [user = 0, nice = 0, system = 0, , , interrupts = 0, softInterrupts = 0] = total
    .split(/ +/)
    .slice(1)
    .map(Number);
  return (user + nice + system + interrupts + softInterrupts) / ticksPerSecond;
}
