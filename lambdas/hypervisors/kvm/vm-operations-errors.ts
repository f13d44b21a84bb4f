/** What libvirt's answers to a change of a VM mean. */
import { OperationRefused } from "../../domain/errors.ts";
import { type ErrorCode, LibvirtTimedOut } from "../../protocols/libvirt/errors.ts";
import { libvirtCode } from "./host-errors.ts";

/** The VM as it stands, or as it would be, does not allow it. Other failures may pass. */
const refusals: ReadonlySet<ErrorCode | undefined> = new Set<ErrorCode>([
  "OPERATION_INVALID",
  "CONFIG_UNSUPPORTED",
  "OPERATION_UNSUPPORTED",
  "ARGUMENT_UNSUPPORTED",
  "INVALID_ARG",
  "XML_ERROR",
  "XML_DETAIL",
  "DOMAIN_EXISTS",
  "DEVICE_MISSING",
]);

/** The error to throw for one of the host: OperationRefused with libvirt's words for a refusal, else the same. */
export function refusal(error: unknown): unknown {
  if (!(error instanceof Error && refusals.has(libvirtCode(error)))) return error;
  return new OperationRefused(error.message, { cause: error.cause });
}

/** Whether libvirt had not answered in time. It does what it was asked for all the same. */
export function tookTooLong(error: unknown): boolean {
  return error instanceof Error && error.cause instanceof LibvirtTimedOut;
}
