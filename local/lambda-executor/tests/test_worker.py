"""One Node process, as the executor uses it."""

import json
import threading
import time
import unittest

from snapferry_lambda_executor.worker import FunctionError, NodeWorker
from tests.support import READY_SECONDS, is_gone_within, is_process_alive, start_worker


class WorkerCase(unittest.TestCase):
    def worker(self, handler: str, **options) -> NodeWorker:
        worker = start_worker(handler, **options)
        self.addCleanup(worker.stop, at_once=True)
        worker.wait_until_ready(READY_SECONDS)
        return worker

    def invoke(self, worker: NodeWorker, event: object = None, *, timeout: float = 20, request_id: str = "request-1"):
        return json.loads(worker.invoke(request_id, "arn:aws:lambda:x", None, json.dumps(event), timeout))

    def failure(self, worker: NodeWorker, event: object = None, *, timeout: float = 20) -> FunctionError:
        with self.assertRaises(FunctionError) as caught:
            self.invoke(worker, event, timeout=timeout)
        return caught.exception


class AnInvocation(WorkerCase):
    def test_gets_its_event_and_context_and_returns_the_result(self):
        answer = self.invoke(self.worker("echo"), {"a": [1, "é"]}, request_id="abc")
        self.assertEqual((answer["event"], answer["requestId"]), ({"a": [1, "é"]}, "abc"))

    def test_runs_in_the_same_process_as_the_one_before(self):
        worker = self.worker("echo")
        self.assertEqual(self.invoke(worker)["pid"], self.invoke(worker)["pid"])

    def test_knows_the_time_that_it_has_left(self):
        left = self.invoke(self.worker("remaining"), timeout=20)
        self.assertTrue(15_000 < left <= 20_000, left)

    def test_without_a_result_returns_null(self):
        self.assertIsNone(self.invoke(self.worker("nothing")))

    def test_takes_a_payload_of_six_mebibytes(self):
        self.assertEqual(self.invoke(self.worker("size"), {"text": "x" * 6_000_000}), 6_000_000)

    def test_returns_a_payload_of_six_mebibytes(self):
        self.assertEqual(len(self.invoke(self.worker("grow"), {"bytes": 6_000_000})), 6_000_000)

    def test_that_returns_more_than_lambda_allows_fails(self):
        error = self.failure(self.worker("grow"), {"bytes": 7_000_000})
        self.assertEqual(error.error["errorType"], "Function.ResponseSizeTooLarge")

    def test_reports_the_memory_that_the_process_has_held(self):
        worker = self.worker("allocate")
        self.invoke(worker, {"mb": 200})
        self.assertTrue(200 < worker.max_memory_mb < 600, worker.max_memory_mb)

    def test_sees_the_environment_of_the_function_and_not_the_plumbing(self):
        worker = self.worker("variables", COLOUR="red")
        seen = self.invoke(worker, {"names": ["COLOUR", "SNAPFERRY_REQUEST_FD", "SNAPFERRY_REPLY_FD"]})
        self.assertEqual(seen, {"COLOUR": "red", "SNAPFERRY_REQUEST_FD": None, "SNAPFERRY_REPLY_FD": None})


class ALog(WorkerCase):
    def test_holds_console_lines_as_lambda_writes_them(self):
        worker = self.worker("print")
        self.invoke(worker, request_id="r-1")
        # A line break inside of a line is a carriage return, so that it stays one event.
        lines = worker.take_logs().split("\n")
        self.assertRegex(lines[0], r"^\d{4}-\S+Z\tr-1\tINFO\ta line \{ of: 'text' \}$")
        self.assertRegex(lines[1], r"\tr-1\tERROR\ttwo\rlines$")
        self.assertIn("raw", lines[-1])

    def test_is_json_where_the_function_says_so(self):
        worker = self.worker("print", AWS_LAMBDA_LOG_FORMAT="JSON")
        self.invoke(worker, request_id="r-1")
        line = json.loads(worker.take_logs().splitlines()[0])
        self.assertEqual((line["level"], line["requestId"]), ("INFO", "r-1"))

    def test_is_taken_once(self):
        worker = self.worker("print")
        self.invoke(worker)
        worker.take_logs()
        self.assertEqual(worker.take_logs(), "")


class AFailure(WorkerCase):
    def test_carries_the_name_of_the_error_for_a_state_machine_to_catch(self):
        error = self.failure(self.worker("fail")).error
        self.assertEqual((error["errorType"], error["errorMessage"]), ("StoreUnavailable", "the store is away"))
        self.assertIn("functions.mjs", error["trace"][1])

    def test_leaves_the_process_warm(self):
        worker = self.worker("fail")
        self.failure(worker)
        self.assertTrue(worker.is_alive())

    def test_may_be_a_text_that_was_thrown(self):
        self.assertEqual(self.failure(self.worker("failWithText")).error["errorMessage"], "just a text")

    def test_of_the_whole_process_is_told_with_its_exit_status(self):
        error = self.failure(self.worker("exit"), {"code": 7}).error
        self.assertEqual(error["errorType"], "Runtime.ExitError")
        self.assertIn("exit status 7", error["errorMessage"])

    def test_by_a_signal_is_told_with_its_name(self):
        self.assertIn("signal: kill", self.failure(self.worker("die")).error["errorMessage"])

    def test_that_nobody_caught_ends_the_process(self):
        worker = self.worker("throwLater")
        self.assertEqual(self.failure(worker).error["errorType"], "Runtime.UncaughtException")
        self.assertFalse(worker.is_alive())

    def test_of_a_promise_that_nobody_awaits_ends_the_process(self):
        worker = self.worker("reject")
        error = self.failure(worker).error
        self.assertEqual(error["errorType"], "Runtime.UnhandledPromiseRejection")
        self.assertEqual(error["errorMessage"], "TypeError: nobody listens")

    def test_to_load_names_what_is_missing(self):
        for handler, error_type in [
            ("functions.absent", "Runtime.HandlerNotFound"),
            ("no.handler", "Runtime.ImportModuleError"),
        ]:
            with self.subTest(handler):
                worker = start_worker("", _HANDLER=handler)
                self.addCleanup(worker.stop)
                with self.assertRaises(FunctionError) as caught:
                    worker.wait_until_ready(READY_SECONDS)
                self.assertEqual(caught.exception.error["errorType"], error_type)


class ATimeOut(WorkerCase):
    def test_ends_a_function_that_waits(self):
        error = self.failure(self.worker("sleep"), {"ms": 60_000}, timeout=0.3).error
        self.assertEqual(error["errorType"], "Sandbox.Timedout")
        self.assertIn("Task timed out after 0.30 seconds", error["errorMessage"])

    def test_ends_an_endless_loop_and_the_programs_that_it_started(self):
        worker = self.worker("spawnAndSpin")
        started = time.monotonic()
        self.failure(worker, timeout=2)
        self.assertLess(time.monotonic() - started, 5)
        child = int(worker.take_logs().partition("CHILD ")[2].split()[0])
        self.assertTrue(is_gone_within(child, 2))
        self.assertFalse(is_process_alive(worker.pid))

    def test_is_in_the_log(self):
        worker = self.worker("sleep")
        self.failure(worker, {"ms": 60_000}, timeout=0.2)
        self.assertIn("Task timed out", worker.take_logs())


class Stopping(WorkerCase):
    def test_ends_an_idle_process_at_once(self):
        worker = self.worker("echo")
        worker.stop()
        self.assertFalse(is_process_alive(worker.pid))

    def test_may_be_done_twice(self):
        worker = self.worker("echo")
        worker.stop()
        worker.stop()

    def test_ends_an_invocation_that_runs(self):
        worker = self.worker("sleep")
        threading.Timer(0.3, worker.stop).start()
        error = self.failure(worker, {"ms": 60_000}).error
        self.assertEqual(error["errorType"], "Runtime.ExitError")


class SeveralWorkers(WorkerCase):
    def test_run_at_the_same_time(self):
        workers = [self.worker("sleep") for _ in range(4)]
        pids = []
        threads = [threading.Thread(target=lambda w=w: pids.append(self.invoke(w, {"ms": 500}))) for w in workers]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(set(pids)), 4)
        self.assertLess(time.monotonic() - started, 1.5)


if __name__ == "__main__":
    unittest.main()
