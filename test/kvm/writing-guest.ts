/**
 * A guest without an operating system: 128 bytes in the boot sector that write to the disk all the time, under the firmware. It boots
 * within a second even where it is emulated, and its disk tells whether any of its writes was lost.
 *
 * At each start it counts up the number in sector 1, and goes on to count from 2^20 times that. Each number fills a sector of its own:
 * number n lies in sector 2048 + n mod 1024.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import { run } from "../../local/kvm-host/processes.ts";

/*
 *        cli; xor ax,ax; mov ds,ax; mov es,ax; mov ss,ax; mov sp,0x7c00; sti; cld; mov [drive],dl
 *        mov ah,0x42; call disk; inc dword [0x8000]; mov ebx,[0x8000]; mov ah,0x43; call disk; shl ebx,20
 * again: hlt; mov bp,16                              ; 16 sectors with each tick of the clock, 18 times a second
 * burst: mov eax,ebx; mov di,0x8000; mov cx,128; rep stosd; and eax,0x3ff; add eax,0x800; mov [packet+8],eax
 *        mov ah,0x43; call disk; inc ebx; dec bp; jnz burst; jmp again
 * disk:  push ebx; push bp; mov al,0; mov dl,[drive]; mov si,packet; int 0x13; pop bp; pop ebx; ret
 * drive: db 0x80; align 4; packet: db 16,0,1,0; dw 0x8000,0; dq 1
 */
const program =
  "fa31c08ed88ec08ed0bc007cfbfc8816687cb442e83f0066ff060080668b1e0080b443e8300066c1e314f4bd10006689d8bf0080b9800066f3ab6625ff03" +
  "000066050008000066a3747cb443e8070066434d75daebd4665355b0008a16687cbe6c7ccd135d665bc3808d740010000100008000000100000000000000";
const bootSignature = { at: 510, bytes: "55aa" };

const sectorBytes = 512;
const firstNumberSector = 2048;
const numberSectors = 1024;
const numbersOfAStart = 2 ** 20;
/** What it writes each second, about. */
export const numbersPerSecond = 290;

/** A disk that this guest boots from. */
export function makeWritingDisk(path: string, format: "raw" | "qcow2", sizeBytes: number): void {
  const sector = Buffer.alloc(sectorBytes);
  sector.write(program, "hex");
  sector.write(bootSignature.bytes, bootSignature.at, "hex");
  const raw = `${path}.draft`;
  writeFileSync(raw, sector);
  truncateSync(raw, sizeBytes);
  run("qemu-img", "convert", "-f", "raw", "-O", format, raw, path);
  rmSync(raw);
}

/** So many that it is seen whether any is lost; a third of a second's. */
const writtenOn = 100;
const writtenPollMs = 50;
/** Emulated, on a busy machine. */
const writtenSeconds = 90;

/**
 * Waits until the guest has written on, which of one that was just started is after its firmware's start. Which disk it writes to is `vda`.
 * `uri` is libvirt's.
 */
export async function untilWritten(uri: string, { uuid }: { readonly uuid: string }): Promise<void> {
  const before = await writesSince(uri, uuid);
  for (const deadline = Date.now() + writtenSeconds * 1000; Date.now() < deadline; await pause(writtenPollMs))
    if ((await writesSince(uri, uuid)) >= before + writtenOn) return;
  throw new Error(`The guest of ${uuid} wrote nothing for ${writtenSeconds} s.`);
}

/** How often the guest has written since its last start. */
async function writesSince(uri: string, uuid: string): Promise<number> {
  const { stdout } = await promisify(execFile)("virsh", ["-q", "-c", uri, "domblkstat", uuid, "vda"]);
  const [, writes] = /wr_req (\d+)/.exec(stdout) ?? [];
  if (writes === undefined) throw new Error(`libvirt tells no writes of ${uuid}: ${stdout}`);
  return Number(writes);
}

/** All bytes of a disk, through its chain. Nobody may write to it. */
export function diskBytes(path: string, format: string): Buffer {
  const raw = `${path}.bytes`;
  run("qemu-img", "convert", "-U", "-f", format, "-O", "raw", path, raw);
  const bytes = readFileSync(raw);
  rmSync(raw);
  return bytes;
}

/** The newest number that is on the disk. */
export function newestNumber(disk: Buffer): number {
  return Math.max(...numbers(disk));
}

function numbers(disk: Buffer): number[] {
  return Array.from({ length: numberSectors }, (_, index) =>
    disk.readUInt32LE((firstNumberSector + index) * sectorBytes),
  );
}

/**
 * Fails if the disk lacks one of the last writes before the newest number, or has half of one, or did not see so many starts of the
 * guest. Returns the newest number.
 */
export function assertNothingLost(disk: Buffer, starts: number): number {
  assert.equal(disk.readUInt32LE(sectorBytes), starts, "the disk lost a start of the guest");
  const newest = newestNumber(disk);
  assert.ok(newest > starts * numbersOfAStart, "the guest wrote nothing after its last start");
  const found = numbers(disk);
  const oldest = Math.max(starts * numbersOfAStart, newest - numberSectors + 1);
  for (let number = oldest; number <= newest; number++) {
    const index = number % numberSectors;
    assert.equal(found[index], number, `the disk lost the write ${number} of those up to ${newest}`);
    const at = (firstNumberSector + index) * sectorBytes;
    const sector = disk.subarray(at, at + sectorBytes);
    assert.ok(sector.subarray(4).equals(sector.subarray(0, -4)), `the write ${number} is not whole`);
  }
  return newest;
}
