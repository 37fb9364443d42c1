"""Where jobs work."""

pytest_plugins = ["tests.support.working_folder"]
