"""The cases are run by what the small matrix of `make test` uses as well, and give one table."""

pytest_plugins = ["tests.support.fault_table", "tests.support.working_folder"]
