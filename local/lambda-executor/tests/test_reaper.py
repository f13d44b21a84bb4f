"""Nothing that a process has started outlives it, whatever ends it."""

import os
import signal
import subprocess
import sys
import textwrap
import unittest

from snapferry_lambda_executor.reaper import Reaper
from tests.support import READY_SECONDS, is_gone_within, is_process_alive

# Stands for LocalStack: starts one worker in an endless loop that has started a program, one idle worker, and waits.
PARENT = textwrap.dedent(
    """
    import threading, time
    from tests.support import READY_SECONDS, start_worker

    busy, idle = start_worker("spawnAndSpin"), start_worker("echo")
    for worker in (busy, idle):
        worker.wait_until_ready(READY_SECONDS)
    def invoke():
        try:
            busy.invoke("r", "arn", None, "{}", 600)
        except Exception:
            pass
    threading.Thread(target=invoke, daemon=True).start()
    text = ""
    while "CHILD " not in text:
        time.sleep(0.05)
        text = "".join(busy._raw) + "".join(busy._logs)
    while not text.partition("CHILD ")[2].endswith("\\n"):
        text = "".join(busy._logs)
    time.sleep(0.3)
    print(busy.pid, idle.pid, text.partition("CHILD ")[2].split()[0], flush=True)
    time.sleep(600)
    """
)


class AfterSigkillOfTheParent(unittest.TestCase):
    def test_busy_and_idle_workers_and_their_programs_are_gone(self):
        parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
        self.addCleanup(parent.stdout.close)
        self.addCleanup(parent.wait)
        self.addCleanup(parent.kill)
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        self.assertEqual(len(pids), 3)
        for pid in pids:
            self.assertTrue(is_process_alive(pid), pid)
        parent.send_signal(signal.SIGKILL)
        for pid in pids:
            self.assertTrue(is_gone_within(pid, READY_SECONDS), pid)


class TheReaper(unittest.TestCase):
    def sleeper(self) -> subprocess.Popen:
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_leaves_what_was_taken_back(self):
        kept, lost = self.sleeper(), self.sleeper()
        reaper = Reaper()
        reaper.add(kept.pid)
        reaper.add(lost.pid)
        reaper.remove(kept.pid)
        self.end(reaper)
        self.assertEqual(lost.wait(10), -signal.SIGKILL)
        self.assertIsNone(kept.poll())

    def test_leaves_a_process_that_has_got_the_number_since(self):
        other = self.sleeper()
        reaper = Reaper()
        reaper.add(other.pid)
        reaper._tell(f"+{other.pid} 1\n")
        self.end(reaper)
        self.assertIsNone(other.poll())

    def test_that_was_killed_is_started_again_and_knows_the_groups(self):
        first, second = self.sleeper(), self.sleeper()
        reaper = Reaper()
        reaper.add(first.pid)
        reaper._process.kill()
        reaper._process.wait()
        reaper._process.stdin.close()
        reaper.add(second.pid)
        self.end(reaper)
        self.assertEqual((first.wait(10), second.wait(10)), (-signal.SIGKILL, -signal.SIGKILL))

    def end(self, reaper: Reaper) -> None:
        reaper._process.stdin.close()
        reaper._process.wait(10)


class TheLifeline(unittest.TestCase):
    def test_ends_the_process_when_the_owner_closes_its_end(self):
        reading, writing = os.pipe()
        code = (
            "import time; from snapferry_lambda_executor import lifeline; "
            f"lifeline.watch({reading}); print('on', flush=True); time.sleep(600)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[reading], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        os.close(reading)
        process.stdout.readline()
        self.assertIsNone(process.poll())
        os.close(writing)
        self.assertEqual(process.wait(10), -signal.SIGTERM)


if __name__ == "__main__":
    unittest.main()
