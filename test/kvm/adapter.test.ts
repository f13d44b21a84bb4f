/** The adapter for KVM against the real thing: libvirt, QEMU and OpenSSH. */
import { after } from "node:test";
import { hypervisorContract } from "../contract/hypervisor.ts";
import { AdapterHost } from "./adapter-host.ts";

const host = await AdapterHost.start();
after(() => host[Symbol.asyncDispose]());

/** QEMU counts in sectors. */
const options = { sizeGranularity: 512 };

hypervisorContract("a KVM host with stopped VMs", () => host.makeSubject(), options);
hypervisorContract("a KVM host with stopped VMs on raw disks", () => host.makeSubject({ format: "raw" }), options);
hypervisorContract("a KVM host with running VMs", () => host.makeSubject({ running: true }), options);
