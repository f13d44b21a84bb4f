/** What callers are told when a hypervisor does not do what is asked of it. */
import {
  EndpointForbidden,
  HypervisorFailed,
  HypervisorMisconfigured,
  HypervisorUnavailable,
  OperationRefused,
  PathOutsideDirectory,
  SecretUnusable,
  VmNotFound,
  VolumeNotFound,
} from "../domain/errors.ts";
import { Problem, unavailable } from "./problem.ts";

/** What may pass by itself. */
const passing = [HypervisorUnavailable, HypervisorFailed];
/** What somebody has to mend before the hypervisor can be used again. */
const unusable = [HypervisorMisconfigured, PathOutsideDirectory, SecretUnusable, EndpointForbidden];
/** What discovery has found and is no longer so. */
const outdated = [VmNotFound, VolumeNotFound];

/** The problem that a fault of the hypervisor is; any other error as it is. */
export function hypervisorProblem(hypervisorId: string, error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const is = (fault: abstract new (message: string) => Error) => error instanceof fault;
  if (passing.some(is)) return unavailable(`${hypervisorId} cannot be used now: ${error.message}`, error);
  if (unusable.some(is)) return new Problem("conflict", `${hypervisorId} cannot be used as it is: ${error.message}`);
  if (outdated.some(is)) return new Problem("conflict", `${error.message} Discover ${hypervisorId} again.`);
  if (is(OperationRefused)) return new Problem("operation-refused", error.message);
  return error;
}
