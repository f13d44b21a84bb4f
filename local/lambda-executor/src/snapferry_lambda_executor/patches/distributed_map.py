"""A Distributed Map fails when more children fail than it tolerates, as on AWS.

LocalStack turns a failed child into the result `null` and lets the map succeed. Here the map fails with
States.ExceedToleratedFailureThreshold as soon as the tolerated count or percentage is exceeded (none by default):
no further child starts, those that run are stopped. A Lambda function that a stopped child has invoked runs to its
end, as on AWS.
"""

import datetime
import threading
import weakref

_CAUSE = "The specified tolerated failure threshold was exceeded"


def apply() -> None:
    from localstack.services.stepfunctions.asl.component.state.state_execution.state_map.iteration.itemprocessor import (
        distributed_item_processor_worker,
    )

    worker_class = distributed_item_processor_worker.DistributedItemProcessorWorker
    original = worker_class._eval_job
    children: weakref.WeakKeyDictionary[object, set] = weakref.WeakKeyDictionary()
    lock = threading.Lock()

    def _eval_job(self, env, job):
        with lock:
            running = children.setdefault(self._job_pool, set())
            running.add(env)
        try:
            original(self, env, job)
        finally:
            with lock:
                running.discard(env)
        if is_exceeded(self._map_run_record, self._job_pool._jobs_number):
            job.job_output = _threshold_exceeded(self._env)
            with lock:
                left = list(running)
            for child in left:
                child.set_stop(stop_date=datetime.datetime.now(tz=datetime.UTC), cause=None, error=None)

    worker_class._eval_job = _eval_job


def is_exceeded(map_run, items: int) -> bool:
    """Whether more children have failed than the map tolerates; of two limits, the first that is exceeded counts."""
    counter = map_run.item_counter
    failed = counter.failed.get() + counter.timed_out.get()
    if failed == 0:
        return False
    count, percentage = map_run.tolerated_failure_count or 0, map_run.tolerated_failure_percentage or 0
    if not count and not percentage:
        return True
    return bool((count and failed > count) or (percentage and failed * 100 > percentage * items))


def _threshold_exceeded(env) -> Exception:
    from localstack.aws.api.stepfunctions import HistoryEventType, TaskFailedEventDetails
    from localstack.services.stepfunctions.asl.component.common.error_name.failure_event import (
        FailureEvent,
        FailureEventException,
    )
    from localstack.services.stepfunctions.asl.component.common.error_name.states_error_name import StatesErrorName
    from localstack.services.stepfunctions.asl.component.common.error_name.states_error_name_type import (
        StatesErrorNameType,
    )
    from localstack.services.stepfunctions.asl.eval.event.event_detail import EventDetails

    name = StatesErrorName(StatesErrorNameType.StatesExceedToleratedFailureThreshold)
    details = TaskFailedEventDetails(error=name.error_name, cause=_CAUSE)
    return FailureEventException(
        FailureEvent(
            env=env,
            error_name=name,
            event_type=HistoryEventType.TaskFailed,
            event_details=EventDetails(taskFailedEventDetails=details),
        )
    )
