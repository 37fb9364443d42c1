"""What the user says of TLS and the token is checked before anything listens."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.security import MAX_TOKEN_CHARS, Security
from tests.support.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pem"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "other")


@pytest.mark.parametrize("mutual", [True, False])
def test_files_that_go_together_are_accepted(authority: Authority, mutual: bool) -> None:
    """A certificate of the authority, for this host, with its own key; also where nobody calls."""
    security = authority.security("node-1", "127.0.0.1", "::1", mutual=mutual)
    for host in ("node-1", "127.0.0.1", "::1", None):
        security.check(host)


def test_one_name_may_stand_for_all_hosts(authority: Authority) -> None:
    """With a server name the certificate is for that, whatever the host is called."""
    authority.security("job.internal", server_name="job.internal").check("node-1")
    with pytest.raises(ConfigError, match="job.external"):
        authority.security("job.internal", server_name="job.external").check("job.internal")


@pytest.mark.parametrize("given", ["ca", "certificate", "key", "ca certificate", "ca key"])
def test_half_of_tls_is_refused(given: str) -> None:
    """The message names what was given and what is missing."""
    missing = {"ca", "certificate", "key"} - set(given.split())
    with pytest.raises(ConfigError, match=f"got only {', '.join(given.split())}") as raised:
        files: dict[str, Any] = dict.fromkeys(given.split(), "file.pem")
        Security(**files)
    assert all(name in str(raised.value).partition("give ")[2] for name in missing)


@pytest.mark.parametrize("options", [{"mutual": False}, {"server_name": "job"}])
def test_how_to_use_tls_says_nothing_without_tls(options: dict[str, Any]) -> None:
    """Who asks for it and gives no files would believe in a protection that is not there."""
    with pytest.raises(ConfigError, match="there is none"):
        Security(**options)


@pytest.mark.parametrize("token", ["", " \n", "x" * (MAX_TOKEN_CHARS + 1)])
def test_a_token_has_some_characters_but_not_too_many(token: str) -> None:
    """None is no token; an empty one is a mistake."""
    with pytest.raises(ConfigError, match=f"1 to {MAX_TOKEN_CHARS} characters"):
        Security(token=token)


def test_the_token_is_not_shown() -> None:
    """Neither alone nor within the settings, in whatever is printed of them."""
    settings = ConnectionSettings(security=Security(token="open sesame"))
    assert "sesame" not in f"{settings} {settings!r} {settings.security}"


def test_settings_come_back_from_json_equal(authority: Authority) -> None:
    """A worker hands its own to the server that it starts, token and all."""
    settings = ConnectionSettings(security=authority.security(token="t"))
    assert ConnectionSettings.from_dict(dataclasses.asdict(settings)) == settings


@pytest.mark.parametrize("name", ["ca", "certificate", "key"])
def test_a_file_that_is_not_there_is_named(authority: Authority, tmp_path: Path, name: str) -> None:
    """With what it was given as, and its path."""
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match=f"{name} '{missing}' cannot be read"):
        authority.security(**{name: missing}).check(None)


@pytest.mark.parametrize("name", ["ca", "certificate", "key"])
def test_a_file_of_something_else_is_named(authority: Authority, tmp_path: Path, name: str) -> None:
    """A file that holds no PEM."""
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("not PEM")
    with pytest.raises(ConfigError, match=str(wrong)):
        authority.security(**{name: str(wrong)}).check(None)


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    """The message names both files."""
    key = authority.member("127.0.0.1", name="another")["key"]
    with pytest.raises(ConfigError, match="do not go together") as raised:
        authority.security(key=key).check(None)
    assert key in str(raised.value)


BAD_CERTIFICATES = {
    "expired": (dict(valid_days=(-3, -1)), "expired"),
    "not valid yet": (dict(valid_days=(1, 3)), "not yet valid"),
}


@pytest.mark.parametrize("options, reason", BAD_CERTIFICATES.values(), ids=BAD_CERTIFICATES)
def test_a_certificate_out_of_its_time_is_refused(
    authority: Authority, options: dict[str, Any], reason: str
) -> None:
    """The peers would refuse it, so this process does not even begin."""
    member = authority.member("127.0.0.1", name="out of time", **options)
    with pytest.raises(ConfigError, match=reason):
        authority.security(**member).check("127.0.0.1")


def test_a_certificate_for_another_host_is_refused(authority: Authority) -> None:
    """The message says under which name the peers will come."""
    with pytest.raises(ConfigError, match="'node-2'.* subjectAltNames"):
        authority.security("node-1").check("node-2")


def test_a_certificate_of_another_authority_is_refused(
    authority: Authority, other: Authority
) -> None:
    """The ca must have signed it."""
    with pytest.raises(ConfigError, match="must be signed by ca"):
        authority.security(ca=other.ca).check("127.0.0.1")
