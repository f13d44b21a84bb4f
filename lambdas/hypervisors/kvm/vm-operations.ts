/** What is done to a VM on request. Each may be asked for again: what is so already is success. */
import { setTimeout as pause } from "node:timers/promises";
import { HypervisorFailed, VmNotFound } from "../../domain/errors.ts";
import { affect, domainState, setMemory, setVcpus } from "../../protocols/libvirt/flags.ts";
import type { VmOperationRequest } from "../port.ts";
import { readVm, type Vm } from "./discovery.ts";
import type { KvmHost } from "./host.ts";
import { libvirtCode } from "./host-errors.ts";
import { stopMerges } from "./merge-stop.ts";
import { attachVolume, detachVolume } from "./vm-operations-disks.ts";
import { refusal } from "./vm-operations-errors.ts";
import { attachIso, detachIsos } from "./vm-operations-isos.ts";
import { reinstall } from "./vm-operations-reinstall.ts";

const none = { flags: 0 } as const;
/** The API's functions live for 30 s, and look at the VM before and after. */
const stopWaitMs = 12_000;
const stopPollMs = 250;
const kibibyte = 1024;

/** As QEMU words it: another process has the disk's files open. */
const lockRefused = /Failed to get (?:shared )?"[a-z ]+" lock|Is another process using the image/;

/**
 * Does an operation on the VM of this UUID.
 *
 * @throws VmNotFound
 * @throws OperationRefused with libvirt's reason, where the VM as it stands does not allow it
 * @throws HypervisorFailed when it was not done and may be done later
 */
export async function operateVm(host: KvmHost, uuid: string, request: VmOperationRequest): Promise<void> {
  const vm = await findVm(host, uuid);
  try {
    await operate(host, vm, request);
  } catch (error) {
    throw libvirtCode(error) === "NO_DOMAIN" ? notFound(host, uuid) : refusal(error);
  }
}

async function operate(host: KvmHost, vm: Vm, request: VmOperationRequest): Promise<unknown> {
  const { domain, isActive } = vm;
  switch (request.operation) {
    case "start":
      return start(host, vm);
    case "stop":
      return stop(host, vm);
    case "reboot":
      return host.call("domainReboot", { domain, ...none });
    case "destroy":
      return isActive && host.call("domainDestroy", { domain, ...none });
    case "attach-iso":
      return attachIso(host, vm, request.path);
    case "detach-iso":
      return detachIsos(host, vm);
    case "attach-disk":
      return attachVolume(host, vm, request.volumeExternalId);
    case "detach-disk":
      return detachVolume(host, vm, request.volumeExternalId);
    case "change-cpu":
      return changeCpu(host, vm, request.cpus);
    case "change-memory":
      return changeMemory(host, vm, request.memoryBytes);
    case "reinstall":
      return reinstall(host, vm, request.imagePath);
  }
}

async function findVm(host: KvmHost, uuid: string): Promise<Vm> {
  try {
    const { domain } = await host.call("domainLookupByUuid", { uuid });
    const vm = await readVm(host, domain);
    if (vm) return vm;
  } catch (error) {
    if (libvirtCode(error) !== "NO_DOMAIN") throw error;
  }
  throw notFound(host, uuid);
}

function notFound(host: KvmHost, uuid: string): VmNotFound {
  return new VmNotFound(`There is no VM ${uuid} on ${host.name}.`);
}

/** A paused VM goes on. A merge of the stopped VM gives way: it goes on while the VM runs. */
async function start(host: KvmHost, { domain, state, isActive, definition }: Vm): Promise<void> {
  if (state === domainState.paused) return void (await host.call("domainResume", { domain }));
  if (isActive) return;
  try {
    await host.call("domainCreate", { domain, ...none });
  } catch (error) {
    if (!(error instanceof HypervisorFailed && lockRefused.test(error.message))) throw error;
    if (!(await stopMerges(host, definition.disks))) throw error;
    await host.call("domainCreate", { domain, ...none });
  }
}

/** Asks the guest, and waits for a while. */
async function stop(host: KvmHost, { domain, definition, isActive }: Vm): Promise<void> {
  if (!isActive) return;
  await host.call("domainShutdown", { domain, ...none });
  for (const deadline = Date.now() + stopWaitMs; Date.now() < deadline; await pause(stopPollMs)) {
    const { state } = await host.call("domainGetState", { domain, ...none });
    if (state === domainState.shutoff) return;
  }
  throw new HypervisorFailed(
    `${definition.name} was asked to stop, and has not yet. It may still do so; "destroy" ends it at once.`,
  );
}

/** For the next start: the most that the VM may have, too. */
async function changeCpu(host: KvmHost, { domain }: Vm, cpus: number): Promise<void> {
  await host.call("domainSetVcpus", { domain, count: cpus, flags: affect.config | setVcpus.maximum });
  await host.call("domainSetVcpus", { domain, count: cpus, flags: affect.config });
}

/** As {@link changeCpu}. */
async function changeMemory(host: KvmHost, { domain }: Vm, memoryBytes: number): Promise<void> {
  const memory = Math.ceil(memoryBytes / kibibyte);
  await host.call("domainSetMemory", { domain, memory, flags: affect.config | setMemory.maximum });
  await host.call("domainSetMemory", { domain, memory, flags: affect.config });
}
