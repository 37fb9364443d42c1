"""TLS and token of the job: the argument first, then the environment, and nothing in between."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.security_env import read_security
from poseidon_tf.transport.security import MAX_TOKEN_CHARS, Security

TLS = {
    "POSEIDON_TLS_CA": "ca.pem",
    "POSEIDON_TLS_CERTIFICATE": "own.pem",
    "POSEIDON_TLS_KEY": "own.key",
}
FILES: dict[str, Any] = {"ca": "ca.pem", "certificate": "own.pem", "key": "own.key"}


def test_nothing_said_is_neither_tls_nor_token() -> None:
    assert read_security({}) == Security()
    assert read_security({**dict.fromkeys(TLS, ""), "POSEIDON_TOKEN": " "}) == Security()


def test_the_environment_alone_is_enough() -> None:
    environ = {
        **TLS,
        "POSEIDON_TLS_MUTUAL": "0",
        "POSEIDON_TLS_SERVER_NAME": "job",
        "POSEIDON_TOKEN": " secret\n",
    }
    assert read_security(environ) == Security(
        **FILES, mutual=False, server_name="job", token="secret"
    )


def test_the_argument_comes_before_the_environment() -> None:
    """TLS is one choice and the token another: each is the argument's if it makes it."""
    other: dict[str, Any] = {"ca": "1.pem", "certificate": "2.pem", "key": "3.key"}
    environ = {**TLS, "POSEIDON_TLS_SERVER_NAME": "job", "POSEIDON_TOKEN": "theirs"}
    argument = Security(**other, token="ours")
    assert read_security(environ, argument) == argument
    assert read_security(environ, Security(**other)) == Security(**other, token="theirs")
    assert read_security(environ, Security(token="ours")) == Security(
        **FILES, server_name="job", token="ours"
    )


def test_a_token_may_be_in_a_file(tmp_path: Path) -> None:
    """As secrets are mounted; white space around it does not count."""
    file = tmp_path / "token"
    file.write_text("secret\n")
    assert read_security({"POSEIDON_TOKEN_FILE": str(file)}) == Security(token="secret")


def bad_files(tmp_path: Path) -> Path:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "long").write_text("x" * (MAX_TOKEN_CHARS + 1))
    return tmp_path


@pytest.mark.parametrize(
    "file, reason",
    [
        ("missing", "cannot be read"),
        (".", "cannot be read"),
        ("empty", "is empty"),
        ("binary", "cannot be read"),
        ("long", f"1 to {MAX_TOKEN_CHARS} characters"),
    ],
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, file: str, reason: str) -> None:
    """With its path, and never with what is in it."""
    path = bad_files(tmp_path) / file
    with pytest.raises(ConfigError, match=reason) as raised:
        read_security({"POSEIDON_TOKEN_FILE": str(path)})
    assert "xxx" not in str(raised.value)


@pytest.mark.parametrize(
    "environ, reason",
    [
        ({"POSEIDON_TOKEN": "a", "POSEIDON_TOKEN_FILE": "b"}, "both name the job's token"),
        ({"POSEIDON_TLS_CA": "ca.pem"}, "got only ca; give certificate, key too"),
        ({**TLS, "POSEIDON_TLS_MUTUAL": "yes"}, "POSEIDON_TLS_MUTUAL must be 1 .* got 'yes'"),
        ({"POSEIDON_TLS_MUTUAL": "0"}, "there is none"),
    ],
)
def test_settings_that_say_nothing_clear_are_refused(environ: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_security(environ)


@pytest.mark.processes
def test_a_server_of_its_own_reads_the_environment_before_it_listens() -> None:
    """It says which file is wrong, and exits as for any wrong setting."""
    cluster = '{"worker": ["127.0.0.1:1"], "ps": ["127.0.0.1:2"]}'
    config = f'{{"cluster": {cluster}, "task": {{"type": "ps", "index": 0}}}}'
    ended = subprocess.run(
        [sys.executable, "-m", "poseidon_tf", "server"],
        env={**os.environ, "TF_CONFIG": config, **TLS},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ca 'ca.pem' cannot be read")
