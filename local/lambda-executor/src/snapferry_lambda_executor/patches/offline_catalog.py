"""Which CloudFormation types are supported, LocalStack asks its maker's server, and without an answer holds none for
supported. Here those are that this LocalStack has a provider for; nothing is asked.
"""


def apply() -> None:
    from localstack.utils.catalog.catalog import AwsCatalogRemoteStatePlugin
    from localstack.utils.catalog.catalog_loader import RemoteCatalogLoader
    from localstack.utils.catalog.common import (
        AwsRemoteCatalog,
        CloudFormationResourcesSupportAtRuntime,
        CloudFormationResourcesSupportInLatest,
        LocalStackMetadata,
    )

    def get_remote_catalog(self):
        return AwsRemoteCatalog(
            schema_version="v1", localstack=LocalStackMetadata(version="none"), services={}, cloudformation_resources={}
        )

    def get_cloudformation_resource_status(self, resource_name, service_name, is_pro_resource=False):
        if resource_name in self.cfn_resources_at_runtime or resource_name.startswith("Custom::"):
            return CloudFormationResourcesSupportAtRuntime.AVAILABLE
        return CloudFormationResourcesSupportInLatest.NOT_SUPPORTED

    RemoteCatalogLoader.get_remote_catalog = get_remote_catalog
    AwsCatalogRemoteStatePlugin.get_cloudformation_resource_status = get_cloudformation_resource_status
