"""A training job whose connections are reset mid-message ends bit for bit as without that."""

import contextlib
import json
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support.jobs import Job
from tests.support.ports import free_addresses
from tests.support.proxies import Proxy

pytestmark = pytest.mark.processes


def limits(seed: int) -> Iterator[int]:
    """Bytes after which connections break; more than any message that the job sends."""
    rng = random.Random(seed)
    while True:
        yield rng.randrange(400_000, 1_200_000)


@contextlib.contextmanager
def resetting(proxies: Sequence[Proxy], *, every_s: float) -> Iterator[None]:
    """All connections are reset that often meanwhile."""
    is_over = threading.Event()

    def reset() -> None:
        while not is_over.wait(every_s):
            for proxy in proxies:
                proxy.reset()

    thread = threading.Thread(target=reset)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def without_resets(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: each[name] for name in each if name != "lanes_reset"} for each in results]


@pytest.fixture(scope="module")
def undisturbed() -> list[dict[str, Any]]:
    with Job("proxied.py", environ={"LISTENING": "{}"}, servers_run_script=True) as job:
        return without_resets(job.results())


@pytest.mark.parametrize("protocol", ["grpc", "grpc+tcp"])
def test_resets_in_every_connection_change_no_bit_of_the_weights(
    undisturbed: list[dict[str, Any]], protocol: str
) -> None:
    """Two workers and a server, each behind a proxy that resets after some bytes, and all of
    them together four times a second; where they have lanes, those break after some bytes, and
    all of them with their calls once a second."""
    assert undisturbed[0] == undisturbed[1]
    with contextlib.ExitStack() as stack:
        proxies = [
            stack.enter_context(Proxy(address, limits(seed)))
            for seed, address in enumerate(free_addresses(3))
        ]
        listening = {proxy.address: proxy.target for proxy in proxies}
        environ = {"LISTENING": json.dumps(listening), "POSEIDON_PROTOCOL": protocol}
        job = Job("proxied.py", environ=environ, servers_run_script=True)
        *workers, server = listening
        job.cluster = {"worker": workers, "ps": [server]}
        stack.enter_context(job)
        stack.enter_context(resetting(proxies, every_s=0.25 if protocol == "grpc" else 1.0))
        found = job.results()
        assert without_resets(found) == undisturbed
        # To the coordinator and the first worker, to the second worker, to the server.
        assert all(proxy.num_resets >= (10 if protocol == "grpc" else 3) for proxy in proxies)
        resets = job.servers[0].results()["lanes_reset"]
        assert (resets > 0) == (protocol == "grpc+tcp")
