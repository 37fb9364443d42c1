"""Every fault at every moment over both protocols, on real processes, one line each.

Those that need hosts of their own need root, iproute2 and /dev/net/tun.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from poseidon_tf.session.deadlines import Deadlines
from tests.faults.fault_matrix import (
    FAULTS,
    MEMBERS,
    MOMENTS,
    ON_HOSTS,
    Case,
    run_case,
    undisturbed_digest,
)
from tests.support.fault_table import Note

WORKERS = MEMBERS[:2]


def cases() -> Iterator[Case]:
    """All that can happen: servers run no script, and no script runs while sums are received."""
    for what in FAULTS:
        for who in MEMBERS:
            for when in MOMENTS:
                is_scripts = what in ("exception", "exit(0)")
                if is_scripts and (who not in WORKERS or when == "mid pull"):
                    continue
                if what in ON_HOSTS and who == "own server":
                    continue  # It shares its worker's host, and so its link.
                yield Case(who, what, when)
    # Nearly as long as may be: five sixths of keepalive_s.
    yield Case("worker 1", "slow", "mid push", pause_s=3.5)
    # As it is without any setting of the user's.
    yield Case("worker 1", "SIGSTOP", "mid push", keepalive_s=Deadlines().keepalive_s)


@pytest.fixture(scope="session")
def undisturbed() -> dict[int, str]:
    """By number of servers of their own: what the weights are if nothing happens."""
    return {num_servers: undisturbed_digest(num_servers=num_servers) for num_servers in (0, 1)}


def over_both() -> Iterator[Case]:
    """Every case with lanes and through gRPC."""
    for case in cases():
        yield case
        yield replace(case, protocol="grpc")


@pytest.mark.parametrize("case", list(over_both()), ids=str)
def test_a_fault_ends_the_job_for_all_or_changes_nothing(
    case: Case, repetition: int, undisturbed: dict[int, str], note: Note
) -> None:
    """Every survivor raises in time and names who it was; a slow member changes no bit."""
    num_servers = 0 if case.who == "own server" else 1
    note(*run_case(case, undisturbed=undisturbed[num_servers]).row())
