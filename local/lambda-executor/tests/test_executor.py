"""The executor as LocalStack calls it."""

import json
import threading
import unittest
from pathlib import Path
from types import SimpleNamespace

from snapferry_lambda_executor.executor import NodeProcessExecutor
from snapferry_lambda_executor.patches.distributed_map import is_exceeded
from tests.support import FOLDER, is_process_alive


class Counter:
    def __init__(self, value: int) -> None:
        self._value = value

    def get(self) -> int:
        return self._value


def function_version(handler: str, *, timeout: int = 20, runtime: str = "nodejs24.x") -> SimpleNamespace:
    code = SimpleNamespace(get_unzipped_code_location=lambda: Path(FOLDER), prepare_for_execution=lambda: None)
    config = SimpleNamespace(
        runtime=runtime, code=code, timeout=timeout, memory_size=256, handler=f"functions.{handler}"
    )
    return SimpleNamespace(config=config, id=SimpleNamespace(qualifier="$LATEST"))


class ExecutorCase(unittest.TestCase):
    def executor(self, handler: str, **options) -> NodeProcessExecutor:
        executor = NodeProcessExecutor("environment-1", function_version(handler, **options))
        self.addCleanup(executor.stop)
        executor.start(
            {"_HANDLER": f"functions.{handler}", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": 256, "TZ": ":UTC", "ABSENT": None}
        )
        return executor

    def invoke(self, executor: NodeProcessExecutor, event: object = None):
        payload = {
            "invoke-id": "request-1",
            "invoked-function-arn": "arn:x",
            "payload": json.dumps(event),
            "trace-id": "t",
        }
        return executor.invoke(payload)


class AnExecutor(ExecutorCase):
    def test_writes_the_log_of_an_invocation_with_its_figures(self):
        result = self.invoke(self.executor("print"))
        lines = result.logs.splitlines()
        self.assertEqual(lines[0], "START RequestId: request-1 Version: $LATEST")
        self.assertEqual(lines[-2], "END RequestId: request-1")
        self.assertRegex(
            lines[-1],
            r"^REPORT RequestId: request-1\tDuration: [\d.]+ ms\tBilled Duration: \d+ ms\t"
            r"Memory Size: 256 MB\tMax Memory Used: \d+ MB\t$",
        )
        self.assertEqual((result.is_error, json.loads(result.payload)), (False, "done"))

    def test_starts_another_process_after_a_time_out(self):
        executor = self.executor("sleep", timeout=1)
        first = self.invoke(executor, {"ms": 60_000})
        self.assertTrue(first.is_error)
        self.assertEqual(json.loads(first.payload)["errorType"], "Sandbox.Timedout")
        self.assertFalse(self.invoke(executor, {"ms": 1}).is_error)

    def test_starts_another_process_after_a_crash(self):
        executor = self.executor("exit")
        for _ in range(2):
            self.assertIn("exit status 3", json.loads(self.invoke(executor, {"code": 3}).payload)["errorMessage"])

    def test_answers_the_invocation_with_the_reason_why_a_handler_does_not_load(self):
        executor = self.executor("absent")
        for _ in range(2):
            result = self.invoke(executor)
            self.assertEqual(json.loads(result.payload)["errorType"], "Runtime.HandlerNotFound")
            self.assertIn("Runtime.HandlerNotFound", result.logs)

    def test_gives_the_function_lambdas_variables_as_text(self):
        names = ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "TZ", "LAMBDA_TASK_ROOT", "AWS_EXECUTION_ENV", "ABSENT"]
        seen = json.loads(self.invoke(self.executor("variables"), {"names": names}).payload)
        self.assertEqual(list(seen.values()), ["256", "UTC", str(FOLDER), "AWS_Lambda_nodejs24.x", None])

    def test_leaves_no_process_and_no_folder_when_it_is_stopped(self):
        executor = self.executor("echo")
        pid = json.loads(self.invoke(executor).payload)["pid"]
        home = Path(executor._home)
        executor.stop()
        self.assertFalse(is_process_alive(pid) or home.exists())

    def test_that_is_stopped_in_the_middle_of_an_invocation_starts_no_other(self):
        executor = self.executor("sleep")
        threading.Timer(0.3, executor.stop).start()
        self.assertTrue(self.invoke(executor, {"ms": 60_000}).is_error)
        self.assertTrue(self.invoke(executor, {"ms": 1}).is_error)

    def test_refuses_other_runtimes(self):
        with self.assertRaisesRegex(Exception, "Only functions for Node"):
            self.executor("echo", runtime="python3.13")


class ADistributedMap(unittest.TestCase):
    def test_fails_as_it_does_on_aws(self):
        for failed, count, percentage, items, expected in [
            (0, 0, 0, 4, False),
            (1, 0, 0, 4, True),
            (1, 1, 0, 4, False),
            (2, 1, 0, 4, True),
            (2, 0, 50, 4, False),
            (3, 0, 50, 4, True),
            (2, 3, 25, 4, True),
        ]:
            with self.subTest(failed=failed, count=count, percentage=percentage):
                counter = SimpleNamespace(failed=Counter(failed), timed_out=Counter(0))
                run = SimpleNamespace(
                    item_counter=counter, tolerated_failure_count=count, tolerated_failure_percentage=percentage
                )
                self.assertEqual(is_exceeded(run, items), expected)


if __name__ == "__main__":
    unittest.main()
