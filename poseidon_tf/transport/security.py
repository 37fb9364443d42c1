"""Who may take part in a job, and whether its connections are private: what the user says of it.

No gRPC here. What is wrong with the files is found before anything listens: this process shakes
hands with itself, in memory, as its peers will with it.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from poseidon_tf.errors import ConfigError

# A longer secret protects no better, and a request's metadata has a limit.
MAX_TOKEN_CHARS = 4096
# Both ends have said all they have to after three turns each.
_MAX_TURNS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How the members of a job know each other; the same on every member.

    Every member both listens and connects. `ca`, `certificate` and `key` go together: with them
    every connection of the job is TLS. What is None is taken from the environment: POSEIDON_TLS_CA,
    POSEIDON_TLS_CERTIFICATE and POSEIDON_TLS_KEY (with POSEIDON_TLS_MUTUAL=0 and
    POSEIDON_TLS_SERVER_NAME), POSEIDON_TOKEN or POSEIDON_TOKEN_FILE.

    Args:
      ca: PEM file of the authority that signed the certificates of all members.
      certificate: PEM file of this member's certificate, and of those between it and `ca`. It is
        for the host at which others reach this member, or for `server_name`.
      key: PEM file of its private key, without a password.
      mutual: whether who connects must show a certificate too; else only who listens does.
      server_name: the one name that all members' certificates are for; else each is for its host.
      token: a secret of the job, of at most 4096 characters. Who does not know it is refused.

    Raises:
      ConfigError: some of `ca`, `certificate` and `key` is missing, or the token is no token.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    mutual: bool = True
    server_name: str | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        files = {"ca": self.ca, "certificate": self.certificate, "key": self.key}
        given = [name for name, path in files.items() if path]
        if given and len(given) < len(files):
            missing = ", ".join(name for name in files if name not in given)
            raise ConfigError(
                f"TLS needs a ca, a certificate and a key, got only {', '.join(given)}; give "
                f"{missing} too, as an argument of Security or as POSEIDON_TLS_..."
            )
        if not given and (self.server_name or not self.mutual):
            raise ConfigError(
                f"mutual={self.mutual}, server_name={self.server_name!r} say how to use TLS, but "
                "there is none; give a ca, a certificate and a key"
            )
        if self.token is not None and not 0 < len(self.token.strip()) <= MAX_TOKEN_CHARS:
            raise ConfigError(
                f"a token has 1 to {MAX_TOKEN_CHARS} characters, got {len(self.token.strip())}; "
                "leave it out for a job without a token"
            )

    @property
    def is_tls(self) -> bool:
        """Whether connections are encrypted."""
        return bool(self.ca)

    def check(self, host: str | None) -> None:
        """Shake hands with ourselves.

        Args:
          host: under which the other members reach this process; None where nobody does.

        Raises:
          ConfigError: a file cannot be read, the key is not the certificate's, the certificate is
            not signed by the ca, is not valid now, or is for another host.
        """
        if not self.is_tls:
            return
        assert self.ca and self.certificate and self.key
        for name, path in (("ca", self.ca), ("certificate", self.certificate), ("key", self.key)):
            read_pem(name, path)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        server.verify_mode = ssl.CERT_REQUIRED if self.mutual else ssl.CERT_NONE
        for context in (server, client):
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # As gRPC does.
            try:
                context.load_verify_locations(self.ca)
            except ssl.SSLError as failure:
                raise ConfigError(
                    f"ca {self.ca!r} holds no certificate in PEM form ({failure})"
                ) from failure
            try:
                context.load_cert_chain(self.certificate, self.key, password="")
            except (ssl.SSLError, ValueError) as failure:
                raise ConfigError(
                    f"certificate {self.certificate!r} and key {self.key!r} do not go together "
                    f"({failure}); give the private key of this very certificate, in PEM form and "
                    "without a password"
                ) from failure
        peer_name = self.server_name or host
        client.check_hostname = peer_name is not None
        try:
            _shake_hands(server, client, peer_name)
        except ssl.SSLError as failure:
            raise ConfigError(
                f"the other members would refuse certificate {self.certificate!r} for "
                f"{peer_name!r}: {failure}; it must be signed by ca {self.ca!r}, valid now, for "
                f"both ends of a connection, and have {peer_name!r} among its subjectAltNames"
            ) from failure


def read_pem(name: str, path: str) -> bytes:
    """The bytes of the file that was given as `name`.

    Raises:
      ConfigError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as failure:
        raise ConfigError(
            f"{name} {path!r} cannot be read ({failure.strerror}); give the path of a PEM file"
        ) from failure


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(_MAX_TURNS):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue  # The other end's turn.
        if not ends:
            return
    raise ssl.SSLError("the two ends did not come to an end")
