"""The entry point that LAMBDA_RUNTIME_EXECUTOR=node-process names."""

from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin


class NodeProcessExecutorPlugin(RuntimeExecutorPlugin):
    """Loads the executor only when LocalStack's Lambda service starts."""

    name = "node-process"

    def load(self, *args, **kwargs):
        from snapferry_lambda_executor.executor import NodeProcessExecutor

        return NodeProcessExecutor
