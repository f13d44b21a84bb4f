/** What callers are told when a hypervisor does not do what is asked of it. */
import {
  EndpointForbidden,
  HypervisorMisconfigured,
  OperationRefused,
  PathOutsideDirectory,
  SecretUnusable,
  SnapferryError,
  StateConflict,
  VmNotFound,
  VolumeNotFound,
} from "../domain/errors.ts";
import { Problem, unavailable } from "./problem.ts";

/** What somebody has to mend before the hypervisor can be used again. */
const unusable = [HypervisorMisconfigured, PathOutsideDirectory, SecretUnusable, EndpointForbidden];
/** What discovery has found and is no longer so. */
const outdated = [VmNotFound, VolumeNotFound];

/** The problem that a fault of the hypervisor is; a conflict of rows, and what nobody foresaw, as it is. */
export function hypervisorProblem(hypervisorId: string, error: unknown): unknown {
  if (!(error instanceof SnapferryError) || error instanceof StateConflict) return error;
  const is = (fault: abstract new (message: string) => Error) => error instanceof fault;
  if (error.retryable) return unavailable(`${hypervisorId} cannot do this now: ${error.message}`, error);
  if (unusable.some(is)) return new Problem("conflict", `${hypervisorId} cannot be used as it is: ${error.message}`);
  if (outdated.some(is)) return new Problem("conflict", `${error.message} Discover ${hypervisorId} again.`);
  return new Problem(is(OperationRefused) ? "operation-refused" : "conflict", error.message);
}
