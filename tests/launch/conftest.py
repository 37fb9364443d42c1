"""Nothing stays of what these tests start."""

from tests.support.leftovers import nothing_outlives_its_test  # noqa: F401
