"""Runs LocalStack's Lambda functions as local Node processes, and mends where LocalStack differs from AWS."""
