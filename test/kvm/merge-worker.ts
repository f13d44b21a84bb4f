/** A worker that merges one snapshot, as a process of its own that tests kill. Its argument: settings of the host and the installPath. */
import { KvmHost, type KvmHostSettings } from "../../lambdas/hypervisors/kvm/host.ts";
import { mergeSnapshot } from "../../lambdas/hypervisors/kvm/merge.ts";

export interface WorkerTask {
  readonly settings: Omit<KvmHostSettings, "privateKey">;
  readonly privateKey: string;
  readonly installPath: string;
  readonly bytesPerSecond: number;
}

const { settings, privateKey, installPath, bytesPerSecond } = JSON.parse(process.argv[2]!) as WorkerTask;
const host = new KvmHost({ ...settings, privateKey: async () => privateKey });
// A word for whoever waits until the work begins.
console.log("begins");
await mergeSnapshot(host, installPath, { exports: async () => [], bytesPerSecond });
await host.close();
