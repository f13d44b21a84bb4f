"""Each module mends one thing in LocalStack 4.14; its docstring says what and why."""
