"""LocalStack enforces reserved concurrency, but its CloudFormation drops the property ReservedConcurrentExecutions."""


def apply() -> None:
    from localstack.services.cloudformation.resource_provider import OperationStatus
    from localstack.services.lambda_.resource_providers.aws_lambda_function import LambdaFunctionProvider

    original = LambdaFunctionProvider.create

    def create(self, request):
        event = original(self, request)
        reserved = request.desired_state.get("ReservedConcurrentExecutions")
        if event.status == OperationStatus.SUCCESS and reserved is not None:
            request.aws_client_factory.lambda_.put_function_concurrency(
                FunctionName=event.resource_model["FunctionName"], ReservedConcurrentExecutions=int(reserved)
            )
        return event

    LambdaFunctionProvider.create = create
