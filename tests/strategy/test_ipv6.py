"""Workers at IPv6 addresses train, with the servers that they start beside themselves."""

from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.jobs import Job

pytestmark = pytest.mark.processes


def test_workers_at_ipv6_addresses_train_over_tls(tmp_path: Path) -> None:
    """Their own servers listen on the host that TF_CONFIG names; certificates are for that host."""
    authority = Authority(tmp_path)
    files = authority.member("::1")
    environ = {
        "POSEIDON_TLS_CA": authority.ca,
        "POSEIDON_TLS_CERTIFICATE": files["certificate"],
        "POSEIDON_TLS_KEY": files["key"],
    }
    job = Job("one_image.py", num_servers=0, host="::1", environ=environ)
    # However somebody writes it: gRPC compares a certificate's addresses as text.
    job.cluster["worker"][1] = job.cluster["worker"][1].replace("[::1]", "[0:0::1]")
    with job:
        first, second = job.results()
    assert first["digest"] == second["digest"]
    assert first["has_moved"]
