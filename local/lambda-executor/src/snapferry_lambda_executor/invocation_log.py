"""The text that Lambda writes to CloudWatch around an invocation."""

import math
import time


class InvocationLog:
    """Collects the log lines of one invocation between START and REPORT."""

    def __init__(self, request_id: str, version: str, memory_mb: int) -> None:
        self._request_id = request_id
        self._memory_mb = memory_mb
        self._started = time.monotonic()
        self._parts = [f"START RequestId: {request_id} Version: {version}\n"]

    def add(self, text: str) -> None:
        """Appends what the function printed."""
        if text:
            self._parts.append(text if text.endswith("\n") else f"{text}\n")

    def finish(self, max_memory_mb: int | None) -> str:
        """The whole text. `max_memory_mb` is the most that the process has held in memory, in MiB."""
        duration = (time.monotonic() - self._started) * 1000
        self._parts.append(f"END RequestId: {self._request_id}\n")
        self._parts.append(
            f"REPORT RequestId: {self._request_id}\t"
            f"Duration: {duration:.2f} ms\tBilled Duration: {math.ceil(duration)} ms\t"
            f"Memory Size: {self._memory_mb} MB\tMax Memory Used: {max_memory_mb or self._memory_mb} MB\t\n"
        )
        return "".join(self._parts)
