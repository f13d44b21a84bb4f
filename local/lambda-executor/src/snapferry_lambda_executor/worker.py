"""One Node process that stands for one Lambda execution environment.

Protocol: one JSON object a line, on two pipes whose descriptors the child learns from its environment.

* to the child: `{"id", "arn", "trace", "timeoutMs", "payload"}`, one for each invocation, one at a time
* from the child: `{"type": "ready"}` once; `{"type": "init-error", "error"}` instead of it; `{"type": "log", "text"}`
  at any time; for each invocation `{"type": "result", "id", "body"}` or `{"type": "error", "id", "error"}`, with
  `"fatal": true` when the process ends with it

The child ends at the end of its request pipe. Where it cannot (it is busy), and for programs that it has started,
the reaper kills its process group.
"""

import collections
import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from snapferry_lambda_executor.reaper import REAPER, kill_group, start_time

LOG = logging.getLogger(__name__)

BOOTSTRAP = Path(__file__).with_name("bootstrap.mjs")
# How long an idle process gets to end by itself: Node takes some 20 ms.
EXIT_GRACE_SECONDS = 0.3
RAW_LINES_KEPT = 2000


class FunctionError(Exception):
    """The function failed as a function may: `error` is the object that Lambda answers with."""

    def __init__(self, error_type: str, message: str, trace: list[str] | None = None) -> None:
        super().__init__(f"{error_type}: {message}")
        self.error: dict[str, Any] = {"errorType": error_type, "errorMessage": message}
        if trace is not None:
            self.error["trace"] = trace

    @property
    def payload(self) -> bytes:
        """The body of the answer to an invocation that failed so."""
        return json.dumps(self.error).encode()


class Ended:
    """Stands in the queue of messages for the end of the process."""


class NodeWorker:
    """Starts a Node process with a handler and passes invocations to it."""

    def __init__(self, node: str, memory_mb: int, env: dict[str, str], code: str) -> None:
        request_read, request_write = os.pipe()
        reply_read, reply_write = os.pipe()
        try:
            self._process = subprocess.Popen(
                [node, *self._flags(memory_mb), str(BOOTSTRAP)],
                env={**env, "SNAPFERRY_REQUEST_FD": str(request_read), "SNAPFERRY_REPLY_FD": str(reply_write)},
                cwd=code,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(request_read, reply_write),
                start_new_session=True,
            )
        except BaseException:
            os.close(request_write)
            os.close(reply_read)
            raise
        finally:
            os.close(request_read)
            os.close(reply_write)
        self._started = start_time(self._process.pid)
        REAPER.add(self._process.pid)
        self._requests = os.fdopen(request_write, "wb", buffering=0)
        self._replies = os.fdopen(reply_read, "rb")
        self._messages: queue.Queue[dict[str, Any] | Ended] = queue.Queue()
        self._raw: collections.deque[str] = collections.deque(maxlen=RAW_LINES_KEPT)
        self._raw_reader = threading.Thread(target=self._read_raw, name="lambda-output", daemon=True)
        self._raw_reader.start()
        threading.Thread(target=self._read_replies, name="lambda-replies", daemon=True).start()
        self._max_memory_mb: int | None = None
        self._stop_lock = threading.Lock()
        self._logs: list[str] = []

    @staticmethod
    def _flags(memory_mb: int) -> list[str]:
        # As Lambda does it: most of the memory for the heap, the rest for buffers and code.
        return [f"--max-old-space-size={max(64, memory_mb * 9 // 10)}", "--no-deprecation"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self, timeout_seconds: float) -> None:
        """Waits until the handler is loaded.

        :raises FunctionError: the module does not load, or not in time; the process has ended then
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            message = self._next(deadline)
            if message is None:
                self.stop(at_once=True)
                raise FunctionError(
                    "Sandbox.Timedout", f"Error: Initialization timed out after {timeout_seconds:.2f} seconds"
                )
            if isinstance(message, Ended):
                raise self._exit_error("")
            if message["type"] == "ready":
                return
            if message["type"] == "init-error":
                self.stop()
                raise FunctionError(*_error_fields(message["error"]))

    def invoke(self, request_id: str, arn: str, trace: str | None, payload: str, timeout_seconds: float) -> bytes:
        """Runs the handler once.

        :param timeout_seconds: the process is killed when it takes longer
        :return: what the handler returned, as JSON
        :raises FunctionError: the handler threw, the process ended or took too long
        """
        deadline = time.monotonic() + timeout_seconds
        request = {
            "id": request_id,
            "arn": arn,
            "trace": trace,
            "timeoutMs": int(timeout_seconds * 1000),
            "payload": payload,
        }
        try:
            self._send(request)
        except (BrokenPipeError, ValueError):
            LOG.debug("Worker %s ended before it got request %s", self.pid, request_id)
        while True:
            message = self._next(deadline)
            if message is None:
                self._note_memory()
                self.stop(at_once=True)
                text = f"RequestId: {request_id} Error: Task timed out after {timeout_seconds:.2f} seconds"
                self._logs.append(f"{text}\n")
                raise FunctionError("Sandbox.Timedout", text)
            if isinstance(message, Ended):
                raise self._exit_error(f"RequestId: {request_id} ")
            if message.get("id") != request_id:
                continue
            self._note_memory()
            if message["type"] == "result":
                return message["body"].encode()
            if message.get("fatal"):
                self.stop()
            raise FunctionError(*_error_fields(message["error"]))

    def take_logs(self) -> str:
        """What has been printed since the last call."""
        if not self.is_alive():
            self._raw_reader.join(timeout=EXIT_GRACE_SECONDS)
        text, self._logs = "".join(self._logs), []
        with contextlib.suppress(IndexError):
            while True:
                text += self._raw.popleft()
        return text

    @property
    def max_memory_mb(self) -> int | None:
        """The most that the process has held in memory so far, in MiB, as of the last invocation."""
        return self._max_memory_mb

    def stop(self, *, at_once: bool = False) -> None:
        """Ends the process and what it has started. May be called again, and while an invocation runs."""
        with self._stop_lock:
            with contextlib.suppress(OSError):
                self._requests.close()
            if not at_once:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(EXIT_GRACE_SECONDS)
            kill_group(self._process.pid, self._started)
            self._process.wait()
            REAPER.remove(self._process.pid)

    def _send(self, message: dict[str, Any]) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            data = data[self._requests.write(data) :]

    def _next(self, deadline: float) -> dict[str, Any] | Ended | None:
        """The next message that is not a log line; None at the deadline."""
        while True:
            try:
                message = self._messages.get(timeout=max(0.001, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if isinstance(message, Ended) or message["type"] != "log":
                return message
            self._logs.append(message["text"])

    def _exit_error(self, prefix: str) -> FunctionError:
        code = self._process.wait()
        self.stop()
        reason = (
            f"exit status {code}" if code >= 0 else f"signal: {signal.Signals(-code).name.removeprefix('SIG').lower()}"
        )
        text = f"{prefix}Error: Runtime exited with error: {reason}"
        self._logs.append(f"{text}\n")
        return FunctionError("Runtime.ExitError", text)

    def _note_memory(self) -> None:
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self._max_memory_mb = -(-int(line.split()[1]) // 1024)

    def _read_replies(self) -> None:
        try:
            with self._replies:
                for line in self._replies:
                    self._messages.put(json.loads(line))
        except (OSError, ValueError) as error:
            LOG.warning("Worker %s broke the protocol: %s", self.pid, error)
        finally:
            self._messages.put(Ended())

    def _read_raw(self) -> None:
        with self._process.stdout:
            for line in self._process.stdout:
                self._raw.append(line.decode("utf-8", "replace"))


def _error_fields(error: dict[str, Any]) -> tuple[str, str, list[str] | None]:
    return error["errorType"], error["errorMessage"], error.get("trace")
