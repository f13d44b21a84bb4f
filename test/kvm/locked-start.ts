/** VMs that cannot start because somebody holds their disks' locks. */
import assert from "node:assert/strict";

const mostTries = 10;

/**
 * That `start` is refused, and for a lock. QEMU may end before libvirt has connected to it: then libvirt knows nothing of why, and is asked once more. A
 * start that succeeds fails at once.
 */
export async function assertLocked(start: () => Promise<unknown>): Promise<void> {
  for (let tries = 1; ; tries++) {
    const refusal = await start().then(
      () => assert.fail("It started."),
      (error: Error) => error,
    );
    if (tries < mostTries && /monitor socket/.test(refusal.message)) continue;
    assert.match(refusal.message, /lock/);
    return;
  }
}
