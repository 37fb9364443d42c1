"""A server of its own goes by the deadlines of rank 0, once everyone has arrived."""

import dataclasses
import logging
from typing import Any

import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.launch.told_servers import ToldServers
from poseidon_tf.transport.connections import ConnectionSettings
from tests.session.jobs_in_process import DEADLINES, InProcess


def warnings_of(
    caplog: pytest.LogCaptureFixture, *, workers_s: float, server_s: float
) -> tuple[InProcess, list[Any]]:
    """What is logged at WARNING or above in a whole job with these two `keepalive_s`."""
    job = InProcess(
        2,
        1,
        deadlines=dataclasses.replace(DEADLINES, keepalive_s=workers_s),
        settings=ConnectionSettings(keepalive_s=server_s),
    )
    with caplog.at_level(logging.WARNING, logger="poseidon_tf"):
        assert job.run(lambda member: member.worker.meet("train")) == ([None, None], [0])
    return job, [record.getMessage() for record in caplog.records]


@pytest.mark.connections
def test_a_server_with_another_keepalive_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """Who it is, both values, and what to give it: it cannot be changed any more."""
    job, texts = warnings_of(caplog, workers_s=20.0, server_s=30.0)
    (text,) = texts
    assert f"server 0 ({job.servers[0]}) takes a connection for broken after 30 s" in text
    assert f"worker rank 0 ({job.workers[0]}) after 20 s" in text
    assert "poseidon-tf server --keepalive 20" in text
    assert "Deadlines(keepalive_s=20)" in text


@pytest.mark.connections
def test_a_server_with_the_same_keepalive_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    _, texts = warnings_of(caplog, workers_s=25, server_s=25.0)
    assert texts == []


def test_what_rank_0_says_arrives() -> None:
    told = ToldServers(timeline_dir="/tmp/t", keepalive_s=20.0, resume_s=0.0)
    assert ToldServers.read({"seed": 3, **told.as_info()}) == told
    silent = ToldServers(timeline_dir=None, keepalive_s=None, resume_s=None)
    assert ToldServers.read({}) == silent


@pytest.mark.parametrize("name", ["timeline_dir", "keepalive_s", "resume_s"])
@pytest.mark.parametrize("value", [True, -1, ["1"], float("nan"), float("inf")])
def test_what_rank_0_cannot_mean_is_refused_by_name(
    name: str, value: bool | float | list[str]
) -> None:
    with pytest.raises(ProtocolError, match=rf"rank 0's {name} is "):
        ToldServers.read({name: value})
