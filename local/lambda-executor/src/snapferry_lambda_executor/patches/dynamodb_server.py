"""DynamoDB Local listens on every interface of the machine when LocalStack starts it, and outlives a killed
LocalStack.

Here it listens on loopback only, on a port that the system chooses, and the reaper ends it.
"""

import logging
import os
import subprocess
import sys
import threading

from snapferry_lambda_executor import settings
from snapferry_lambda_executor.dynamodb_local import LOOPBACK
from snapferry_lambda_executor.reaper import REAPER, kill_group, start_time

LOG = logging.getLogger(__name__)

# Two seconds on an idle machine.
START_TIMEOUT_SECONDS = 90


class DynamodbProcess:
    """Takes the place of the thread by which LocalStack's server object runs Java."""

    def __init__(self, java_home: str, jars: str, heap: str) -> None:
        command = [sys.executable, "-m", "snapferry_lambda_executor.dynamodb_local", java_home, jars, heap]
        self.auto_restart = False
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "JAVA_HOME": java_home, "DDB_LOCAL_TELEMETRY": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._started = start_time(self.process.pid)
        REAPER.add(self.process.pid)
        self._port: int | None = None
        self._announced = threading.Event()
        self._reader = threading.Thread(target=self._read, name="dynamodb-local", daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def result_future(self) -> "DynamodbProcess":
        """LocalStack waits for the end of the thread by its future."""
        return self

    def result(self, timeout: float | None = None) -> int:
        return self.process.wait(timeout)

    def wait_for_port(self) -> int:
        """The port that it listens on.

        :raises RuntimeError: it has not started
        """
        self._announced.wait(START_TIMEOUT_SECONDS)
        if self._port is None:
            self.stop()
            raise RuntimeError("DynamoDB Local did not start; the log says why.")
        return self._port

    def stop(self, *args, **kwargs) -> None:
        """Kills it: all its data is in memory."""
        kill_group(self.process.pid, self._started)
        self.process.wait()
        REAPER.remove(self.process.pid)

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.startswith("PORT "):
                self._port = int(line.split()[1])
                self._announced.set()
            else:
                LOG.log(logging.DEBUG if self._port else logging.INFO, "DynamoDB Local: %s", line.rstrip())
        self._announced.set()


def apply() -> None:
    from localstack.aws.forwarder import AwsRequestProxy
    from localstack.services.dynamodb.server import DynamodbServer

    def do_start_thread(self) -> DynamodbProcess:
        libraries = settings.libraries()
        process = DynamodbProcess(
            str(libraries / "java" / "21"), str(libraries / "dynamodb-local" / "2"), self.heap_size
        )
        self._host, self._port = LOOPBACK, process.wait_for_port()
        self.proxy = AwsRequestProxy(self.url)
        return process

    DynamodbServer.do_start_thread = do_start_thread
