import type { KvmExport } from "../../lambdas/hypervisors/kvm/export.ts";
import type { KvmHostSettings } from "../../lambdas/hypervisors/kvm/host.ts";

/** What the parent asks of one run of `read.ts`. */
export interface ReadRequest extends Omit<KvmHostSettings, "privateKey"> {
  readonly keyFile: string;
  readonly descriptor: KvmExport;
}
