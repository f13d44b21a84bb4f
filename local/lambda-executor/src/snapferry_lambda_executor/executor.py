"""LocalStack's view of a local Node process: one executor for each execution environment."""

import logging
import os
import shutil
import tempfile
import threading

from localstack import config
from localstack.services.lambda_.invocation.lambda_models import FunctionVersion, InvocationResult
from localstack.services.lambda_.invocation.runtime_executor import LambdaRuntimeException, RuntimeExecutor

from snapferry_lambda_executor import settings
from snapferry_lambda_executor.invocation_log import InvocationLog
from snapferry_lambda_executor.worker import BOOTSTRAP, FunctionError, NodeWorker

LOG = logging.getLogger(__name__)

# Lambda's defaults where a function says nothing.
DEFAULT_TIMEOUT_SECONDS = 3
DEFAULT_MEMORY_MB = 128
LOOPBACK = "127.0.0.1"
# LocalStack sets these for its own runtime, and for an X-Ray daemon that is not there.
NOT_PASSED_ON = frozenset(
    {
        "LOCALSTACK_RUNTIME_ENDPOINT",
        "LOCALSTACK_RUNTIME_ID",
        "AWS_XRAY_DAEMON_ADDRESS",
        "_AWS_XRAY_DAEMON_ADDRESS",
        "_AWS_XRAY_DAEMON_PORT",
    }
)


class NodeProcessExecutor(RuntimeExecutor):
    """Keeps one Node process warm and starts another after a time-out or a crash, as Lambda does in one sandbox.

    LocalStack gives one executor one invocation at a time; `stop` may come at any moment.
    """

    def __init__(self, id: str, function_version: FunctionVersion) -> None:
        super().__init__(id=id, function_version=function_version)
        self._worker: NodeWorker | None = None
        self._failed_start: FunctionError | None = None
        self._env: dict[str, str] = {}
        self._home: str | None = None
        self._logs = ""
        self._stopped = False
        self._lock = threading.Lock()

    def get_address(self) -> str:
        return LOOPBACK

    def get_endpoint_from_executor(self) -> str:
        # Becomes the host in AWS_ENDPOINT_URL: with an IP address, SDKs put the bucket into the path.
        return LOOPBACK

    def get_runtime_endpoint(self) -> str:
        return f"http://{LOOPBACK}:{config.GATEWAY_LISTEN[0].port}/_localstack_lambda/{self.id}"

    def start(self, env_vars: dict[str, str]) -> None:
        """Starts the process. A handler that does not load is answered to the invocation, so that its log is kept."""
        runtime = self.function_version.config.runtime or ""
        if not runtime.startswith("nodejs"):
            raise LambdaRuntimeException(f"Only functions for Node run here, not for {runtime or 'a container image'}.")
        self._home = tempfile.mkdtemp(prefix="lambda-")
        self._env = self._environment(env_vars, runtime)
        try:
            self._spawn()
        except FunctionError as error:
            self._failed_start = error

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            worker, self._worker = self._worker, None
        if worker:
            worker.stop()
        if self._home:
            shutil.rmtree(self._home, ignore_errors=True)

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        function = self.function_version.config
        request_id = payload["invoke-id"]
        log = InvocationLog(request_id, self.function_version.id.qualifier, self._memory_mb)
        try:
            worker = self._ready_worker()
            body, is_error = (
                worker.invoke(
                    request_id,
                    payload["invoked-function-arn"],
                    payload.get("trace-id"),
                    payload["payload"],
                    float(function.timeout or DEFAULT_TIMEOUT_SECONDS),
                ),
                False,
            )
        except FunctionError as error:
            body, is_error = error.payload, True
        log.add(self.get_logs())
        return InvocationResult(request_id, body, is_error=is_error, logs=log.finish(self._max_memory_mb))

    def get_logs(self) -> str:
        """What has been printed and not been fetched yet."""
        logs, self._logs = self._logs, ""
        worker = self._worker
        return logs + (worker.take_logs() if worker else "")

    @classmethod
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        if function_version.config.code:
            function_version.config.code.prepare_for_execution()

    @classmethod
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        """Nothing to do: LocalStack removes the code itself."""

    @property
    def _code(self) -> str:
        return str(self.function_version.config.code.get_unzipped_code_location())

    @property
    def _memory_mb(self) -> int:
        return int(self.function_version.config.memory_size or DEFAULT_MEMORY_MB)

    @property
    def _max_memory_mb(self) -> int | None:
        return self._worker.max_memory_mb if self._worker else None

    def _ready_worker(self) -> NodeWorker:
        if self._failed_start:
            error, self._failed_start = self._failed_start, None
            raise error
        if self._worker is None or not self._worker.is_alive():
            self._spawn()
        return self._worker

    def _spawn(self) -> None:
        with self._lock:
            if self._stopped:
                raise FunctionError("Runtime.ExitError", "The execution environment has been stopped.")
            if self._worker:
                self._logs += self._worker.take_logs()
            self._worker = NodeWorker(settings.node_binary(), self._memory_mb, self._env, self._code)
        self._worker.wait_until_ready(config.LAMBDA_RUNTIME_ENVIRONMENT_TIMEOUT)

    def _environment(self, env_vars: dict[str, str], runtime: str) -> dict[str, str]:
        # LocalStack puts numbers among them; the function's own variables are in there already and have won.
        env = {name: str(value) for name, value in env_vars.items() if value is not None and name not in NOT_PASSED_ON}
        return {
            **env,
            **settings.mark(),
            "TZ": "UTC",
            "LANG": "en_US.UTF-8",
            "PATH": f"{os.path.dirname(settings.node_binary())}:/usr/local/bin:/usr/bin:/bin",
            "HOME": self._home,
            "TMPDIR": self._home,
            "LAMBDA_TASK_ROOT": self._code,
            "LAMBDA_RUNTIME_DIR": str(BOOTSTRAP.parent),
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{runtime}",
        }
