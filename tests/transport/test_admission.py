"""Who is let in: over TLS and without, with and without the job's token."""

import dataclasses
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from poseidon_tf.errors import ConfigError, PeerLost, StartTimeout
from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.security import Security
from poseidon_tf.transport.streams import Stream
from tests.support.certificates import Authority
from tests.transport.grpc_peers import WAIT_S, Inbox, Peers

pytestmark = pytest.mark.connections

ASK, TALK = "/test.Talk/Ask", "/test.Talk/Talk"
PLAIN = Security()
TOKEN = Security(token="open sesame")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pem"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "other")


class Talk:
    """A server that answers, and knows what it was asked and how many streams it has accepted."""

    def __init__(self, peers: Peers, security: Security) -> None:
        self.asked: list[bytes] = []
        self.accepted: list[Stream] = []
        self._peers = peers
        self.server = peers.server(settings=ConnectionSettings(security=security))
        self.server.add_unary(ASK, self._answer)
        self.server.add_stream(TALK, self._accept)
        self.server.start()

    def _answer(self, request: bytes) -> bytes:
        self.asked.append(request)
        return request[::-1]

    def _accept(self, stream: Stream) -> Inbox:
        self.accepted.append(stream)
        return Inbox(on_message=lambda message: stream.send(message[::-1]))

    def channel(self, security: Security) -> Channel:
        return self._peers.channel(
            self.server.address, settings=ConnectionSettings(security=security)
        )

    def lets_in(self, channel: Channel) -> bool:
        """Whether a call and a stream are answered."""
        inbox = Inbox()
        stream = channel.open_stream(TALK, inbox)
        stream.send(b"abc")
        heard = inbox.next() == b"cba"
        stream.close()
        ready = channel.wait_ready(timeout_s=WAIT_S)
        return heard and ready and channel.call(ASK, b"abc", timeout_s=WAIT_S) == b"cba"


@pytest.mark.parametrize("token", [None, "open sesame", "Täuschung " * 100])
@pytest.mark.parametrize("tls", ["none", "mutual", "of the server"])
def test_members_of_one_job_reach_each_other(
    peers: Peers, authority: Authority, tls: str, token: str | None
) -> None:
    """With any token, even a long one of any letters, and with each kind of TLS."""
    security = Security(token=token)
    if tls != "none":
        security = authority.security(mutual=tls == "mutual", token=token)
    talk = Talk(peers, security)
    assert talk.lets_in(talk.channel(security))


def test_who_connects_needs_no_certificate_where_tls_is_not_mutual(
    peers: Peers, authority: Authority
) -> None:
    """The server's certificate is verified, the client's not even asked for."""
    talk = Talk(peers, authority.security(mutual=False))
    credentials = grpc.ssl_channel_credentials(Path(authority.ca).read_bytes())
    with grpc.secure_channel(talk.server.address, credentials) as channel:
        assert channel.unary_unary(ASK)(b"abc", timeout=WAIT_S) == b"cba"


def test_a_certificate_for_one_name_serves_any_host(peers: Peers, authority: Authority) -> None:
    """The clients look for the server name instead of the address."""
    security = authority.security("job.internal", server_name="job.internal")
    talk = Talk(peers, security)
    assert talk.lets_in(talk.channel(security))


WRONG_TOKENS = {
    "another": (TOKEN, Security(token="open barley")),
    "none": (TOKEN, PLAIN),
    "one, and the server has none": (PLAIN, TOKEN),
}


@pytest.mark.parametrize("servers, strangers", WRONG_TOKENS.values(), ids=WRONG_TOKENS)
def test_a_stranger_is_refused_by_whatever_it_asks(
    peers: Peers, servers: Security, strangers: Security
) -> None:
    """It is told so at once, nothing was asked and no stream accepted, and members go on."""
    talk = Talk(peers, servers)
    channel = talk.channel(strangers)
    refused = "refused this process: another job's token, or none; give all members"
    with pytest.raises(ConfigError, match=refused):
        channel.wait_ready(timeout_s=WAIT_S)
    with pytest.raises(ConfigError, match=refused):
        channel.call(ASK, b"secret", timeout_s=WAIT_S)
    inbox = Inbox()
    channel.open_stream(TALK, inbox).send(b"secret")
    error = inbox.end()
    assert isinstance(error, ConfigError) and "another job's token" in str(error)
    assert "sesame" not in str(error) and "barley" not in str(error)
    assert not talk.asked and not talk.accepted
    assert talk.lets_in(talk.channel(servers))


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("poseidon-token", "")],
        [("poseidon-token", "open sesame")],
        [("poseidon-token-bin", b"\xff\x00")],
    ],
)
@pytest.mark.parametrize(
    "method", [ASK, TALK, "/test.Talk/Nothing", "/grpc.health.v1.Health/Check"]
)
def test_a_stranger_learns_only_that_somebody_listens(
    peers: Peers, metadata: list[Any], method: str
) -> None:
    """Methods that are served and those that are not are refused alike, before any message."""
    talk = Talk(peers, TOKEN)
    with grpc.insecure_channel(talk.server.address) as channel:
        with pytest.raises(grpc.RpcError) as asked:
            channel.unary_unary(method)(b"", timeout=WAIT_S, metadata=metadata)
        with pytest.raises(grpc.RpcError) as streamed:
            # It says nothing, and need not: the refusal does not wait for a message.
            next(channel.stream_stream(method)(iter([]), timeout=WAIT_S, metadata=metadata))
    for raised in (asked, streamed):
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert raised.value.details() == "another job's token, or none"
    assert not talk.asked and not talk.accepted


def test_streams_of_strangers_take_no_place(peers: Peers) -> None:
    """However many come, as many members as there is room for are let in afterwards."""
    talk = Talk(peers, TOKEN)
    stranger = talk.channel(PLAIN)
    for _ in range(50):
        inbox = Inbox()
        stranger.open_stream(TALK, inbox)
        assert isinstance(inbox.end(), ConfigError)
    channel = talk.channel(TOKEN)
    inboxes = [Inbox() for _ in range(4)]
    for inbox in inboxes:
        channel.open_stream(TALK, inbox).send(b"ab")
    assert [inbox.next() for inbox in inboxes] == [b"ba"] * 4


def bad_server(case: str, authority: Authority, other: Authority) -> Security:
    """What the server of this case shows."""
    match case:
        case "of another authority":
            return other.security()
        case "expired":
            dates = {"valid_days": (-3, -1)}
            return authority.security(**authority.member("127.0.0.1", name="old", **dates))
        case "of another host":
            return authority.security(**authority.member("node-9", name="node-9"))
        case _:
            return PLAIN


@pytest.mark.parametrize(
    "case, reason",
    [
        ("of another authority", "not signed by this process's ca"),
        ("expired", "certificate has expired"),
        ("of another host", "its certificate is for another host"),
        ("without TLS", "it does not speak TLS, and this process does"),
    ],
)
def test_what_cannot_become_a_connection_is_said_at_once(
    peers: Peers, authority: Authority, other: Authority, case: str, reason: str
) -> None:
    """No deadline is waited for: trying again mends no certificate."""
    talk = Talk(peers, bad_server(case, authority, other))
    channel = talk.channel(authority.security(**authority.member("127.0.0.1", name="good")))
    with pytest.raises(ConfigError, match=f"no connection to {channel.address}: .*{reason}"):
        channel.wait_ready(timeout_s=3600.0)
    assert not talk.asked and not talk.accepted


def test_who_is_hung_up_on_hears_what_may_be_behind_it(
    peers: Peers, authority: Authority, other: Authority
) -> None:
    """A server that refuses a certificate, or wants TLS, says nothing; the deadline's text does."""
    talk = Talk(peers, authority.security())
    for clients, guess in (
        (PLAIN, "it may want TLS"),
        (authority.security(mutual=False), "it may refuse this process's certificate"),
        (other.security(ca=authority.ca), "it may refuse this process's certificate"),
    ):
        with pytest.raises(StartTimeout) as raised:
            talk.channel(clients).reach("worker rank 3", timeout_s=0.2)
        address = talk.server.address
        assert f"worker rank 3 at {address} cannot be reached in 0.2 s" in str(raised.value)
        assert guess in str(raised.value)
    assert not talk.asked and not talk.accepted
    assert talk.lets_in(talk.channel(authority.security()))


def test_where_nobody_listens_the_deadline_says_so(peers: Peers) -> None:
    """gRPC's own word for it is passed on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # Nobody else can listen there meanwhile.
        channel = peers.channel(f"127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(StartTimeout, match="the server at .* in 0.1 s .*Connection refused"):
            channel.reach("the server", timeout_s=0.1)


def test_a_call_that_is_not_answered_is_a_lost_peer(peers: Peers, authority: Authority) -> None:
    """A plain call to a server that wants TLS ends at its deadline."""
    talk = Talk(peers, authority.security())
    with pytest.raises(PeerLost, match="no answer in 0.2 s"):
        talk.channel(PLAIN).call(ASK, b"", timeout_s=0.2)


def test_files_that_vanish_later_are_named(authority: Authority, tmp_path: Path) -> None:
    """A channel reads the files anew; whoever took one away is told which."""
    security = authority.security()
    gone = dataclasses.replace(security, ca=str(tmp_path / "gone.pem"))
    with pytest.raises(ConfigError, match="ca '.*gone.pem' cannot be read"):
        Channel("127.0.0.1:1", settings=ConnectionSettings(security=gone))


def test_an_ipv6_address_is_looked_up_in_a_certificate(peers: Peers, authority: Authority) -> None:
    """However it is written: a certificate holds its bytes, gRPC compares text."""
    security = authority.security("::1")
    server = peers.server("[0:0::1]:0", settings=ConnectionSettings(security=security))
    server.start()
    address = server.address.replace("[::1]", "[0:0:0:0:0:0:0:1]")
    channel = peers.channel(address, settings=ConnectionSettings(security=security))
    channel.reach("worker rank 3", timeout_s=WAIT_S)
    elsewhere = ConnectionSettings(security=authority.security("fd00::1"))
    server = peers.server("[::1]:0", settings=elsewhere)
    server.start()
    with pytest.raises(ConfigError, match="its certificate is for another host"):
        peers.channel(server.address, settings=elsewhere).reach("rank 3", timeout_s=WAIT_S)
