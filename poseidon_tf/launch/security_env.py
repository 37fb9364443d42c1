"""The job's `Security`: what the argument says, and for what it leaves open, the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from poseidon_tf.errors import ConfigError
from poseidon_tf.transport.security import MAX_TOKEN_CHARS, Security

TOKEN = "POSEIDON_TOKEN"
TOKEN_FILE = "POSEIDON_TOKEN_FILE"
_CA = "POSEIDON_TLS_CA"
_CERTIFICATE = "POSEIDON_TLS_CERTIFICATE"
_KEY = "POSEIDON_TLS_KEY"
_MUTUAL = "POSEIDON_TLS_MUTUAL"
_SERVER_NAME = "POSEIDON_TLS_SERVER_NAME"


def read_security(environ: Mapping[str, str], argument: Security | None = None) -> Security:
    """What this process uses. TLS is one choice, the token another: each is the argument's, or else
    the environment's. A variable that is empty counts as none.

    Raises:
      ConfigError: a variable's value is wrong, or some of those that go together are missing.
    """
    token = argument.token if argument else None
    if token is None:
        token = _token(environ)
    if argument is not None and argument.is_tls:
        tls = argument
    else:
        mutual = environ.get(_MUTUAL, "") or "1"
        if mutual not in ("0", "1"):
            raise ConfigError(
                f"{_MUTUAL} must be 1 (who connects shows a certificate too) or 0, got {mutual!r}"
            )
        tls = Security(
            ca=environ.get(_CA) or None,
            certificate=environ.get(_CERTIFICATE) or None,
            key=environ.get(_KEY) or None,
            mutual=mutual == "1",
            server_name=environ.get(_SERVER_NAME) or None,
        )
    return replace(tls, token=token)


def has_token(environ: Mapping[str, str]) -> bool:
    """Whether the environment names a token."""
    return bool(environ.get(TOKEN, "").strip() or environ.get(TOKEN_FILE))


def _token(environ: Mapping[str, str]) -> str | None:
    text, path = environ.get(TOKEN, ""), environ.get(TOKEN_FILE, "")
    if text.strip() and path:
        raise ConfigError(f"{TOKEN} and {TOKEN_FILE} both name the job's token; unset one of them")
    if not path:
        return text.strip() or None
    try:
        with Path(path).open() as file:
            # One more than may be there, so that a longer one is refused and not cut.
            text = file.read(MAX_TOKEN_CHARS + 2).strip()
    except (OSError, UnicodeDecodeError) as failure:
        raise ConfigError(
            f"{TOKEN_FILE} {path!r} cannot be read ({failure}); give the path of a text file that "
            "holds the job's token and nothing else"
        ) from failure
    if not text:
        raise ConfigError(f"{TOKEN_FILE} {path!r} is empty; write the job's token into it")
    return text
