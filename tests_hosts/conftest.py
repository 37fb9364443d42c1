"""The cases are run by what the small matrix of `make test` uses as well, and give one table."""

from tests.support.working_folder import working_folder  # noqa: F401

pytest_plugins = ["tests.support.fault_table"]
