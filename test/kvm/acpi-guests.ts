/** Guests of some bytes in the boot sector that do one thing with ACPI, as a system does. They boot within a second even where they are emulated. */
import { writeFileSync } from "node:fs";

/*
 * The firmware has put the power management's registers at 0x600: events, what is heard of them, control (the state to go to, and bit 13:
 * do so).
 */
const programs = {
  /*
   *       cli; xor ax,ax; mov ds,ax; sti; mov dx,0x602; mov ax,0x100; out dx,ax         ; hear the power button
   * again: hlt; mov dx,0x600; in ax,dx; test ah,1; jz again; mov cx,60                  ; 60 ticks of the clock, 18 a second
   * wait: hlt; loop wait; mov dx,0x604; mov ax,0x2000; out dx,ax                        ; off
   * end:  hlt; jmp end
   */
  stopsWhenAsked: "fa31c08ed8fbba0206b80001eff4ba0006edf6c40174f6b93c00f4e2fdba0406b80020eff4ebfd",
  /*
   *       mov al,0x50; out 0x70,al; in al,0x71; cmp al,0x5a; je end                     ; once: the clock's memory outlives the sleep
   *       mov al,0x50; out 0x70,al; mov al,0x5a; out 0x71,al; mov dx,0x604; mov ax,0x2400; out dx,ax    ; to RAM
   * end:  hlt; jmp end
   */
  suspends: "b050e670e4713c5a740fb050e670b05ae671ba0406b80024eff4ebfd",
  /*
   *       mov dx,0x505; mov al,1; out dx,al                                             ; the panic device
   * end:  hlt; jmp end
   */
  crashes: "ba0505b001eef4ebfd",
} as const;

const sectorBytes = 512;
const signatureAt = 510;
const signature = "55aa";

/** A raw disk that such a guest boots from. */
export function makeAcpiDisk(path: string, guest: keyof typeof programs): void {
  const disk = Buffer.alloc(2048 * sectorBytes);
  disk.write(programs[guest], "hex");
  disk.write(signature, signatureAt, "hex");
  writeFileSync(path, disk);
}

/** In a definition: the guest may suspend itself, and one that crashes is kept. */
export function withSleepAndPanic(xml: string): string {
  return xml
    .replace(/<on_crash>.*?<\/on_crash>/, "")
    .replace("<devices>", "<on_crash>preserve</on_crash><pm><suspend-to-mem enabled='yes'/></pm><devices>")
    .replace("</devices>", "<panic model='isa'/></devices>");
}
