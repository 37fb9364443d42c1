"""Where somebody listens: the one place that reads "host:port", compares it and writes it."""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass
from typing import final

from poseidon_tf.errors import ConfigError


@final
@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port. Addresses that were written differently and mean the same are equal.

    Attributes:
      host: a name in small letters, an IPv4 address, or an IPv6 address without brackets in its
        shortest form, with its zone if it has one ("fe80::1%eth0").
      port: 0 to 65535; 0 lets the system choose.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, lowest_port: int = 1) -> Address:
        """The address that `text` names.

        Args:
          lowest_port: 0 where the system may choose the port.

        Raises:
          ConfigError: it is not "host:port", or an IPv6 address has no brackets.

        >>> Address.parse("[0:0::1]:2222")
        Address(host='::1', port=2222)
        """
        host, colon, port_text = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not (colon and host and port_text) or any(c.isspace() or c in "/[]" for c in host):
            raise ConfigError(f"an address must read 'host:port', got {text!r}")
        if ":" in host and not bracketed:
            raise ConfigError(
                f"an IPv6 address needs brackets and a port, as in '[::1]:2222', got {text!r}"
            )
        # The length keeps int() away from a string of thousands of digits.
        is_number = port_text.isascii() and port_text.isdigit() and len(port_text) <= 5
        if not is_number or not lowest_port <= int(port_text) <= 65535:
            raise ConfigError(f"a port must be a number from {lowest_port} to 65535, got {text!r}")
        return cls(_shortest_ipv6(host, text) if bracketed else host.lower(), int(port_text))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def with_port(self, port: int) -> Address:
        """Another port of the same host."""
        return dataclasses.replace(self, port=port)

    @property
    def name_in_certificates(self) -> str:
        """The host as a certificate has it: a zone is known to this machine alone."""
        return self.host.partition("%")[0]


def _shortest_ipv6(host: str, text: str) -> str:
    address, percent, zone = host.partition("%")
    try:
        # As gRPC writes it, which compares a certificate's addresses as text.
        short = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))
    except (OSError, ValueError) as failure:
        raise ConfigError(
            f"brackets are for an IPv6 address, as in '[::1]:2222', got {text!r}"
        ) from failure
    return short + percent + zone
