"""What Prometheus is served: the state of a job in its format, to whoever may ask."""

from __future__ import annotations

import builtins
import contextlib
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from poseidon_tf.coordinator.messages import Figures, ServerFigures
from poseidon_tf.coordinator.status import MemberStatus, Status
from poseidon_tf.errors import ConfigError
from poseidon_tf.launch import metrics_server
from poseidon_tf.launch.metrics_server import MetricsServer
from poseidon_tf.transport.security import Security
from tests.support.certificates import Authority
from tests.support.ports import free_addresses

pytestmark = pytest.mark.connections

FIGURES = Figures(
    steps=40,
    step_s=0.25,
    own_s=0.125,
    total_waiting_s=5.0,
    ps_bytes=2**40,
    sfb_bytes=7,
    ring_all_reduce_bytes=9,
    reconnections=1,
)
STATUS = Status(
    members=(
        MemberStatus(
            role="worker", rank=0, address="a:1", presence="here", figures=FIGURES, figures_age_s=1
        ),
        MemberStatus(role="worker", rank=1, address="", presence="expected"),
        MemberStatus(
            role="server",
            rank=0,
            address="s:1",
            presence="here",
            figures_age_s=2,
            server_figures=ServerFigures(
                sums=30, received_bytes=2**41, sent_bytes=8, summing_s=1.5, last_rank=1, late_s=0.5
            ),
        ),
    ),
    running_s=12.5,
    waits=("waiting for worker rank 1",),
    restarts=2,
)
Serve = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def ports_of_this_process() -> None:
    """The first call keeps a port for as long as the process lives."""
    free_addresses(1)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server with this security; where it is."""
    with ExitStack() as stack:

        def start(security: Security = Security()) -> str:
            (address,) = free_addresses(1)
            host, port = address.rsplit(":", 1)
            server = MetricsServer(host, int(port), status=lambda: STATUS, security=security)
            stack.callback(server.close)
            return address

        yield start


def fetch(url: str, token: str = "", context: ssl.SSLContext | None = None) -> str:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=20, context=context) as answer:
        return str(answer.read().decode())


def test_the_clients_own_parser_reads_the_state_of_the_job(serve: Serve) -> None:
    """Names by Prometheus's conventions; counters, gauges and labels as they are meant."""
    text = fetch(f"http://{serve()}/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    worker = ("worker", "0")
    assert values["poseidon_steps_total", worker] == 40
    assert values["poseidon_step_seconds", worker] == 0.25
    assert values["poseidon_step_own_seconds", worker] == 0.125
    assert values["poseidon_waiting_seconds_total", worker] == 5.0
    assert values["poseidon_network_bytes_total", ("scheme", "ps"), worker] == 2**40
    assert values["poseidon_network_bytes_total", ("scheme", "sfb"), worker] == 7
    assert values["poseidon_ring_all_reduce_bytes_total", worker] == 9
    assert values["poseidon_reconnections_total", worker] == 1
    assert values["poseidon_figures_age_seconds", worker] == 1
    assert values["poseidon_members", ("is", "expected"), ("role", "worker")] == 1
    assert values["poseidon_members", ("is", "here"), ("role", "server")] == 1
    assert values["poseidon_running_seconds",] == 12.5
    assert (values["poseidon_restarts",], values["poseidon_failed",]) == (2, 0)
    assert values["poseidon_waits",] == 1
    server = ("server", "0")
    assert values["poseidon_server_sums_total", server] == 30
    assert values["poseidon_server_received_bytes_total", server] == 2**41
    assert values["poseidon_server_sent_bytes_total", server] == 8
    assert values["poseidon_server_summing_seconds_total", server] == 1.5
    assert values["poseidon_server_oldest_wait_seconds", server] == 0
    assert values["poseidon_server_figures_age_seconds", server] == 2
    assert values["poseidon_server_late_seconds", server, ("worker", "1")] == 0.5
    of_worker_1 = [key[0] for key in values if ("worker", "1") in key]
    assert of_worker_1 == ["poseidon_server_late_seconds"], "it has told nothing itself"
    assert all(family.documentation for family in families.values())
    counters = {name for name, family in families.items() if family.type == "counter"}
    assert {f"{name}_total" for name in counters} == {k[0] for k in values if "_total" in k[0]}


def test_whoever_lacks_the_token_gets_nothing(serve: Serve) -> None:
    where = f"http://{serve(Security(token='a-token-of-the-job'))}/metrics"
    for wrong in ("", "another-token"):
        with pytest.raises(urllib.error.HTTPError, match="401: the job's token is needed"):
            fetch(where, wrong)
    assert "poseidon_steps_total" in fetch(where, "a-token-of-the-job")


def test_a_job_with_tls_serves_https(serve: Serve, tmp_path: Path) -> None:
    """With mutual TLS to those alone who have a certificate. Who speaks no TLS stops nobody."""
    authority = Authority(tmp_path)
    security = authority.security()
    address = serve(security)
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20):  # It says nothing.
        trusting = ssl.create_default_context(cafile=authority.ca)
        with pytest.raises((OSError, ssl.SSLError)):
            fetch(f"https://{address}/metrics", context=trusting)
        known = ssl.create_default_context(cafile=authority.ca)
        known.load_cert_chain(str(security.certificate), str(security.key))
        assert "poseidon_steps_total" in fetch(f"https://{address}/metrics", context=known)
    with pytest.raises(OSError):
        fetch(f"http://{address}/metrics")


@pytest.mark.parametrize("begin", [b"GET /metrics HTTP/1.0\r\n", b""])
def test_clients_that_send_byte_by_byte_do_not_keep_the_port(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    """As many as are let in: each has so long for its question, however often it sends some."""
    monkeypatch.setattr(metrics_server, "_CLIENT_S", 0.5)
    address = serve()
    host, port = address.rsplit(":", 1)
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            for _ in range(metrics_server._MOST_CLIENTS)
        ]
        for client in slow:
            client.sendall(begin or b"G")
        deadline_s = time.monotonic() + 20.0
        answer = ""
        while not answer:
            assert time.monotonic() < deadline_s, "no place has become free"
            for client in list(slow):
                try:
                    client.sendall(b"a")
                except OSError:  # The server has hung up.
                    slow.remove(client)
            with contextlib.suppress(OSError):
                answer = fetch(f"http://{address}/metrics")
    assert "poseidon_steps_total" in answer


def test_another_path_is_not_there(serve: Serve) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(f"http://{serve()}/etc/passwd")


def test_a_port_in_use_is_refused(serve: Serve) -> None:
    host, port = serve().rsplit(":", 1)
    with pytest.raises(ConfigError, match=f"metrics_port: cannot listen on {host}:{port} .*free"):
        MetricsServer(host, int(port), status=lambda: STATUS, security=Security())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    original = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'poseidon_tf\[metrics\]'"):
        MetricsServer("127.0.0.1", 1, status=lambda: STATUS, security=Security())
