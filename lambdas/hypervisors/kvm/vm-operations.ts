/** What is done to a VM on request. Each may be asked for again: what is so already is success. */
import { setTimeout as pause } from "node:timers/promises";
import { HypervisorFailed, HypervisorUnavailable, OperationRefused, VmNotFound } from "../../domain/errors.ts";
import { affect, domainState, setMemory, setVcpus } from "../../protocols/libvirt/flags.ts";
import type { OperatedVm, VmOperationRequest } from "../port.ts";
import { readVm, type Vm } from "./discovery.ts";
import type { KvmHost } from "./host.ts";
import { libvirtCode } from "./host-errors.ts";
import { stopMerges } from "./merge-stop.ts";
import { attachVolume, detachVolume } from "./vm-operations-disks.ts";
import { refusal, tookTooLong } from "./vm-operations-errors.ts";
import { attachIso, detachIsos } from "./vm-operations-isos.ts";
import { reinstall } from "./vm-operations-reinstall.ts";

const none = { flags: 0 } as const;
/** An emulated VM starts in seconds, on a busy machine in a minute. */
const patienceMs = 120_000;
const pollMs = 250;
/** The guest is off; as long as it shuts down, QEMU is not yet. */
const off: ReadonlySet<number> = new Set([domainState.shutdown, domainState.shutoff]);
const kibibyte = 1024;

/** As QEMU words it: another process has the disk's files open. */
const lockRefused = /Failed to get (?:shared )?"[a-z ]+" lock|Is another process using the image/;

/**
 * Does an operation on the VM of this UUID. What takes longer than `until` of guest and VM goes on: a guest that was asked to stop is answered
 * with `finished: false`, a VM that is not started yet is an error.
 *
 * @throws VmNotFound
 * @throws OperationRefused with libvirt's reason, where the VM as it stands does not allow it
 * @throws HypervisorFailed, HypervisorUnavailable when it was not done and may be done later
 */
export async function operateVm(
  host: KvmHost,
  uuid: string,
  request: VmOperationRequest,
  { until = Date.now() + patienceMs }: { readonly until?: number } = {},
): Promise<OperatedVm> {
  const vm = await findVm(host, uuid);
  try {
    if (request.operation === "stop") return { finished: await stop(host, vm, until) };
    await operate(host, vm, request, until);
    return { finished: true };
  } catch (error) {
    throw libvirtCode(error) === "NO_DOMAIN" ? notFound(host, uuid) : refusal(error);
  }
}

async function operate(host: KvmHost, vm: Vm, request: VmOperationRequest, until: number): Promise<unknown> {
  const { domain, isActive } = vm;
  switch (request.operation) {
    case "start":
      return start(host, vm, until);
    case "reboot":
      return reboot(host, vm, until);
    case "destroy":
      return isActive && host.call("domainDestroy", { domain, ...none });
    case "attach-iso":
      return attachIso(host, vm, request.path, until);
    case "detach-iso":
      return detachIsos(host, vm, until);
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

/** A VM that is paused goes on, one that is suspended wakes up. */
async function start(host: KvmHost, vm: Vm, until: number): Promise<void> {
  try {
    await begin(host, vm, until);
  } catch (error) {
    if (tookTooLong(error)) throw stillStarting(vm, { cause: error });
    // Somebody else may have started it meanwhile, or this is asked for again while it starts.
    if (libvirtCode(error) !== "OPERATION_INVALID" || !(await isRunning(host, vm))) throw error;
  }
}

function begin(host: KvmHost, vm: Vm, until: number): Promise<unknown> {
  const { domain, definition, state } = vm;
  switch (state) {
    case domainState.running:
    case domainState.blocked:
      return Promise.resolve();
    case domainState.paused:
      return host.call("domainResume", { domain }, within(until));
    case domainState.suspended:
      return wakeUp(host, vm, until);
    case domainState.shutoff:
      return create(host, vm, until);
    default: {
      const what = state === domainState.crashed ? "has crashed" : "is neither running nor stopped";
      throw new OperationRefused(`${definition.name} ${what}: "destroy" ends it, after that it can be started.`);
    }
  }
}

/** Firmware and guest wake up after libvirt has answered. */
async function wakeUp(host: KvmHost, vm: Vm, until: number): Promise<void> {
  await host.call("domainPmWakeup", { domain: vm.domain, ...none }, within(until));
  while (!(await isRunning(host, vm))) {
    if (Date.now() > until) throw stillStarting(vm);
    await pause(pollMs);
  }
}

/** A merge of the stopped VM gives way: it goes on while the VM runs. */
async function create(host: KvmHost, { domain, definition }: Vm, until: number): Promise<void> {
  try {
    await host.call("domainCreate", { domain, ...none }, within(until));
  } catch (error) {
    if (!(error instanceof HypervisorFailed && lockRefused.test(error.message))) throw error;
    if (!(await stopMerges(host, definition.disks))) throw error;
    await host.call("domainCreate", { domain, ...none }, within(until));
  }
}

function stillStarting({ definition }: Vm, options?: ErrorOptions): HypervisorUnavailable {
  return new HypervisorUnavailable(`${definition.name} is still being started: ask for the same again.`, options);
}

async function isRunning(host: KvmHost, vm: Vm): Promise<boolean> {
  const state = await stateOf(host, vm);
  return state === domainState.running || state === domainState.blocked;
}

async function stateOf(host: KvmHost, { domain }: Vm): Promise<number> {
  return (await host.call("domainGetState", { domain, ...none })).state;
}

/**
 * Asks the guest, and answers whether it has stopped by then. libvirt itself waits up to a minute for the answer of an agent. A guest that is off before its
 * agent has answered it takes for one that cannot be asked.
 */
async function stop(host: KvmHost, vm: Vm, until: number): Promise<boolean> {
  const { domain, isActive } = vm;
  if (!isActive) return true;
  try {
    await host.call("domainShutdown", { domain, ...none }, within(until));
  } catch (error) {
    if (!tookTooLong(error) && !off.has(await stateOf(host, vm))) throw error;
  }
  while ((await stateOf(host, vm)) !== domainState.shutoff) {
    if (Date.now() > until) return false;
    await pause(pollMs);
  }
  return true;
}

/** Asks the guest. When it does so nobody is told. */
async function reboot(host: KvmHost, { domain }: Vm, until: number): Promise<void> {
  try {
    await host.call("domainReboot", { domain, ...none }, within(until));
  } catch (error) {
    if (!tookTooLong(error)) throw error;
  }
}

/** For calls of libvirt. */
function within(until: number): { readonly timeoutMs: number } {
  return { timeoutMs: Math.max(until - Date.now(), 0) };
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
