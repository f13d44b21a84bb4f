/** Whose fault an error is: of a hypervisor or store, which belongs to a tenant, or of Snapferry itself. Pure. */
import {
  ChainChanged,
  EncryptionKeyUnavailable,
  EndpointForbidden,
  HypervisorFailed,
  HypervisorMisconfigured,
  HypervisorUnavailable,
  ObjectLocked,
  PathOutsideDirectory,
  SecretUnusable,
  SnapshotInUse,
  StoreFull,
  StoreRefused,
  StoreUnavailable,
  StoreUnfit,
  Throttled,
} from "./errors.ts";

const outsideFaults = [
  ChainChanged,
  SnapshotInUse,
  HypervisorFailed,
  HypervisorUnavailable,
  HypervisorMisconfigured,
  PathOutsideDirectory,
  StoreUnavailable,
  StoreFull,
  StoreRefused,
  StoreUnfit,
  ObjectLocked,
  Throttled,
  EndpointForbidden,
  SecretUnusable,
  EncryptionKeyUnavailable,
] as const;

/** Whether a hypervisor or store is out of reach, refuses, or cannot be used as it is registered. A round that meets such a one is in order itself. */
export function isOutside(error: unknown): boolean {
  return outsideFaults.some((fault) => error instanceof fault);
}
