"""What LocalStack calls while it starts. Each hook is one mend, told in its own module."""

from localstack.runtime import hooks


@hooks.on_runtime_create()
def end_with_owner():
    """A foreground cloud ends with the process that started it."""
    from snapferry_lambda_executor import lifeline, settings

    fd = settings.lifeline_fd()
    if fd is not None:
        lifeline.watch(fd)


@hooks.on_runtime_create()
def listen_on_named_address():
    from snapferry_lambda_executor.patches import gateway

    gateway.apply()


@hooks.on_infra_start()
def answer_from_own_catalog():
    from snapferry_lambda_executor.patches import offline_catalog

    offline_catalog.apply()


@hooks.on_infra_start()
def cache_jsonpath_parsers():
    from snapferry_lambda_executor.patches import jsonpath_cache

    jsonpath_cache.apply()


@hooks.on_infra_start()
def fail_distributed_maps():
    from snapferry_lambda_executor.patches import distributed_map

    distributed_map.apply()


@hooks.on_infra_start()
def honour_reserved_concurrency():
    from snapferry_lambda_executor.patches import reserved_concurrency

    reserved_concurrency.apply()


@hooks.on_infra_start()
def keep_dynamodb_on_loopback():
    from snapferry_lambda_executor.patches import dynamodb_server

    dynamodb_server.apply()


@hooks.on_infra_start()
def keep_objects_in_own_folder():
    from snapferry_lambda_executor.patches import s3_storage

    s3_storage.apply()


@hooks.on_infra_ready()
def warm_up():
    """Saves the first execution of a state machine four seconds."""
    from snapferry_lambda_executor import settings, warm_up

    if settings.is_warm_up_wanted():
        warm_up.start()
