"""Where jobs work."""

from tests.support.working_folder import working_folder  # noqa: F401
