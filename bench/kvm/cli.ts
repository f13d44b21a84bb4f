/** `npm run bench:kvm`: how fast frozen bytes come from a KVM host through SSH and NBD, beside other programs on the same way. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { plannedOverlay } from "../../lambdas/hypervisors/kvm/chain.ts";
import { KvmHypervisor } from "../../lambdas/hypervisors/kvm/kvm-hypervisor.ts";
import { installCommand, missingPackages } from "../../local/kvm-host/packages.ts";
import { run, workFolder } from "../../local/kvm-host/processes.ts";
import { startSshd } from "../../local/kvm-host/sshd.ts";
import { BenchmarkError, isExpected } from "../errors.ts";
import { describeMachine, type Machine } from "../machine.ts";
import type { Usage } from "../measure/command.ts";
import { busySeconds } from "../measure/processor-time.ts";
import { runMeasured } from "../measure/run.ts";
import { parseSize } from "../size.ts";
import { type Reader, type ReaderScene, readers } from "./readers.ts";

interface Options {
  readonly size: number;
  readonly rounds: number;
  readonly memory: string;
  readonly json: boolean;
}

const options = new Command("npm run bench:kvm --")
  .description("Reads random bytes of an image on this machine through SSH and NBD. As root, with QEMU and OpenSSH.")
  .option("--size <size>", "bytes to read", parseSize, parseSize("2GiB"))
  .option("--rounds <number>", "how often each reads; the report has the best and the median", Number, 3)
  .option("--memory <directory>", "a tmpfs, for the image", "/dev/shm")
  .option("--json", "print everything that was measured as JSON", false)
  .showHelpAfterError()
  .parse()
  .opts<Options>();

interface Measurement extends Usage {
  readonly reader: string;
  /** Processor time of all else: sshd and qemu-nbd, and what does not belong here. */
  readonly otherSeconds: number;
}

interface Report {
  readonly machine: Machine;
  readonly sizeBytes: number;
  readonly measurements: readonly Measurement[];
}

/** What is on this machine meanwhile goes again, also after a failure or a signal: images in memory, servers, the export's process. */
const started = new AsyncDisposableStack();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
  process.once(signal, () => void started.disposeAsync().finally(() => process.exit(128 + constants.signals[signal])));

try {
  const missing = missingPackages();
  if (missing.length > 0)
    throw new BenchmarkError(
      `Debian's ${missing.join(", ")} are needed, as root: ${installCommand(missing).join(" ")}`,
    );
  const report = { machine: describeMachine(), sizeBytes: options.size, measurements: await measureAll() };
  console.log(options.json ? JSON.stringify(report, null, 2) : text(report));
} catch (error) {
  if (!isExpected(error)) throw error;
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await started.disposeAsync();
}

async function measureAll(): Promise<Measurement[]> {
  const images = mkdtempSync(join(options.memory, "snapferry-bench-"));
  started.defer(() => rmSync(images, { recursive: true }));
  const folder = workFolder();
  started.defer(folder.remove);
  const sshd = await startSshd(folder);
  started.defer(() => sshd.stop());
  const settings = {
    endpoint: { host: "127.0.0.1", port: sshd.port, user: "root" },
    hostKeys: [sshd.fingerprint],
    uri: "qemu:///system",
    allowedCidrs: ["127.0.0.1"],
    owner: "bench",
  };
  const hypervisor = new KvmHypervisor({ ...settings, privateKey: async () => sshd.userKey });
  started.defer(() => hypervisor.close());
  const snapshot = makeSnapshot(images);
  const descriptor = await hypervisor.openExport(snapshot);
  started.defer(() => hypervisor.closeExport(descriptor));
  const knownHosts = folder.file("known_hosts");
  const hostKey = readFileSync(join(sshd.home, "host.pub"), "utf8");
  writeFileSync(knownHosts, `[127.0.0.1]:${sshd.port} ${hostKey}`);
  const request = { ...settings, keyFile: join(sshd.home, "user"), descriptor };
  return measureRounds({ directory: folder.path, request, knownHosts });
}

/** An image full of bytes that nothing can skip, frozen below an overlay. */
function makeSnapshot(images: string): { snapshotId: string; installPath: string } {
  const volume = join(images, "volume.qcow2");
  const snapshotId = "snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY";
  const installPath = plannedOverlay({ externalId: volume, snapshotId });
  console.error("  making an image of random bytes");
  const raw = join(images, "random.raw");
  run("sh", "-c", `head -c ${options.size} /dev/urandom > '${raw}'`);
  run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, volume);
  rmSync(raw);
  run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", volume, installPath);
  return { snapshotId, installPath };
}

/** Every second round in the opposite order, so that nobody always reads after the same one. */
async function measureRounds(scene: ReaderScene): Promise<Measurement[]> {
  const taking = readers.filter(({ name, missing }) => {
    if (missing) console.error(`  ${name} is skipped: ${missing}`);
    return !missing;
  });
  const measurements: Measurement[] = [];
  for (let round = 0; round < options.rounds; round++) {
    for (const reader of round % 2 === 0 ? taking : taking.toReversed()) {
      measurements.push(await measure(reader, scene));
    }
  }
  return measurements;
}

async function measure(reader: Reader, scene: ReaderScene): Promise<Measurement> {
  const before = busySeconds();
  const usage = await runMeasured(reader.command(scene), join(scene.directory, `${reader.name}.log`));
  const otherSeconds = busySeconds() - before - usage.userSeconds - usage.systemSeconds;
  console.error(`  ${reader.name}: ${usage.wallSeconds.toFixed(2)} s`);
  return { reader: reader.name, ...usage, otherSeconds };
}

function text({ machine, sizeBytes, measurements }: Report): string {
  const mebibytes = sizeBytes / 1024 ** 2;
  const rows = [...Map.groupBy(measurements, ({ reader }) => reader)].map(([reader, ofReader]) => {
    const walls = ofReader.map(({ wallSeconds }) => wallSeconds).sort((a, b) => a - b);
    const client = ofReader.map(({ userSeconds, systemSeconds }) => userSeconds + systemSeconds).sort((a, b) => a - b);
    return { reader, best: walls[0]!, median: walls[walls.length >> 1]!, client: client[client.length >> 1]! };
  });
  const fastest = Math.min(...rows.map(({ median }) => median));
  return [
    `${machine.cores} cores of ${machine.processor}, Node ${machine.node}, load ${machine.loadAverage.toFixed(1)} at the start, ${machine.at}`,
    `${mebibytes} MiB of random bytes through SSH and NBD on one machine, start of the process included.`,
    "",
    "reader      MiB/s, median   MiB/s, best   client CPU s/GiB   wall to the fastest",
    ...rows.map(({ reader, best, median, client }) =>
      [
        reader.padEnd(10),
        (mebibytes / median).toFixed(0).padStart(15),
        (mebibytes / best).toFixed(0).padStart(13),
        ((client / mebibytes) * 1024).toFixed(2).padStart(18),
        (median / fastest).toFixed(2).padStart(21),
      ].join(" "),
    ),
  ].join("\n");
}
