/** Which libvirt of a host is meant, and on which of its sockets it may be found. */
import { HypervisorMisconfigured } from "../../domain/errors.ts";

export interface LibvirtAddress {
  /** What libvirt is asked to open. */
  readonly name: string;
  /** Paths to try, in this order. */
  readonly sockets: readonly string[];
}

/** Of libvirtd, or of the proxy that stands in for it where each driver has its own daemon; then QEMU's own daemon. */
const systemSockets = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"];

/**
 * `qemu:///system`, or with a socket that is not in its usual place `qemu+unix:///system?socket=/path`, as libvirt's own tools take it.
 * The libvirt of a single user (`qemu:///session`) only with its socket. Throws HypervisorMisconfigured.
 */
export function parseUri(uri: string): LibvirtAddress {
  const url = URL.canParse(uri) ? new URL(uri) : undefined;
  const driver = url?.protocol;
  const socket = url?.searchParams.get("socket") ?? undefined;
  const isKnown = (driver === "qemu:" || driver === "qemu+unix:") && url?.host === "";
  const isPlain = url?.hash === "" && [...url.searchParams.keys()].every((key) => key === "socket");
  if (!url || !isKnown || !isPlain || !["/system", "/session"].includes(url.pathname)) {
    throw new HypervisorMisconfigured(`${uri} is not qemu:///system or qemu+unix:///system?socket=/path.`);
  }
  const name = `qemu://${url.pathname}`;
  if (socket?.startsWith("/")) return { name, sockets: [socket] };
  if (socket !== undefined || url.pathname === "/session") {
    throw new HypervisorMisconfigured(
      `${uri} needs the absolute path of libvirt's socket: qemu+unix://${url.pathname}?socket=/path.`,
    );
  }
  return { name, sockets: systemSockets };
}
