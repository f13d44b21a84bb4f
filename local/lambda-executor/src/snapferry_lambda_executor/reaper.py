"""Ends process groups when the process that started them is gone, whatever ended it.

A child cannot be trusted to notice: a function may be in an endless loop, and may have started programs of its own.
So one small process waits at the end of a pipe. It is told of every group; at the end of the pipe it kills those
that are left. The file runs as a script with nothing but the standard library, and is imported for `Reaper`.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading


def start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; with the pid it names one process for good."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as stat:
            return stat.read().rpartition(")")[2].split()[19]
    except OSError:
        return None


def kill_group(pid: int, started: str | None) -> None:
    """Kills a process group, unless its number belongs to another process by now."""
    now = start_time(pid)
    if now is None or now == started:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


class Reaper:
    """The side of the process that starts the groups."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: dict[int, str | None] = {}

    def add(self, pid: int) -> None:
        """Has the group of this leader killed when the present process is gone."""
        with self._lock:
            self._groups[pid] = start_time(pid)
            self._tell(f"+{pid} {self._groups[pid]}\n")

    def remove(self, pid: int) -> None:
        """The group has ended: its number may belong to others from now on."""
        with self._lock:
            if self._groups.pop(pid, None) is not None:
                self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
        else:
            try:
                self._send(line)
            except BrokenPipeError:
                self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for pid, started in self._groups.items():
            self._send(f"+{pid} {started}\n")

    def _send(self, line: str) -> None:
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()


REAPER = Reaper()
"""The one reaper of this process; its helper starts with the first group."""


def main() -> None:
    """The side that waits."""
    groups: dict[int, str] = {}
    for line in sys.stdin:
        pid, _, started = line[1:].strip().partition(" ")
        if line.startswith("+"):
            groups[int(pid)] = started
        else:
            groups.pop(int(pid), None)
    for pid, started in groups.items():
        kill_group(pid, started)


if __name__ == "__main__":
    main()
