"""What a source may look at, what it says, and how its variables are read."""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.transport.address import Address

OR_ALONE = "or train alone on purpose, with PoseidonStrategy(alone=True)"
WHAT_TO_DO = (
    "set POSEIDON_RANK, POSEIDON_WORLD_SIZE and POSEIDON_COORDINATOR (host:port of rank 0) or "
    f"TF_CONFIG in every process, {OR_ALONE}"
)
# Of the ports that are derived from a job's name: below those that systems and Kubernetes give out.
DERIVED_PORTS = (20000, 29999)
_MOST_DIGITS = 9  # Keeps int() away from a string of thousands of digits.


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """This process, as far as a source may look at it.

    Args:
      environ: its environment; an empty variable counts as none.
      resolver: what its script has given as `cluster_resolver`.
      ports: first and last port that the job may use; None leaves the choice to it.
      starter: the number of the process that has started its session, and those of the other
        processes that a launcher of MPI has started on this host.
    """

    environ: Mapping[str, str]
    resolver: Any = None
    ports: tuple[int, int] | None = None
    starter: Callable[[], int] = lambda: 0

    def text(self, name: str) -> str:
        """The variable, or "" where it is not set."""
        return self.environ.get(name, "").strip()

    def number(self, name: str) -> int:
        """The variable as a whole number. Raises ConfigError where it is none."""
        text = self.text(name)
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
            raise ConfigError(f"{name} must be a whole number from 0, got {text!r}")
        return int(text)

    def port(self, job: str) -> int:
        """The port of rank 0 in `job`, a name that all its processes have and other jobs have not.

        It is one of `ports`, or else of DERIVED_PORTS.
        """
        first, last = self.ports or DERIVED_PORTS
        return first + zlib.crc32(job.encode()) % (last - first + 1)

    def address(self, name: str, *, job: str = "") -> Address:
        """The variable as an address. Raises ConfigError where it is none.

        Args:
          job: whose port counts where there is none; "" where there has to be one.
        """
        return parsed_address(name, self.text(name), port=self.port(job) if job else None)


def parsed_address(name: str, text: str, *, port: int | None = None) -> Address:
    """The address that the variable `name` holds.

    Args:
      text: "host:port"; where `port` is given also "host", with or without brackets if it is an
        IPv6 address.

    Raises:
      ConfigError: it is none.
    """
    is_bare_ipv6 = text.count(":") > 1 and not text.startswith("[")
    if port is not None and (is_bare_ipv6 or ":" not in text.rpartition("]")[2]):
        text = f"[{text}]:{port}" if is_bare_ipv6 else f"{text}:{port}"
    try:
        return Address.parse(text)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


class Level(enum.IntEnum):
    """Who says so. Launchers start each other in this order: the higher is the inner."""

    SCHEDULER = 1
    MPI = 2
    AGENT = 3
    STATED = 4  # Rank and size, by somebody who means this job.
    LISTED = 5  # Every member with its role.

    @property
    def is_launcher(self) -> bool:
        return self <= Level.AGENT


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one source says.

    Args:
      config: this process and its cluster. Rank 0's address is empty where the source has none.
      is_inner: of a launcher, whether it surely has processes of its own where it and another one
        differ; else only if it has more of them.
      unknown: why it does not say where rank 0 is, if it does not.
    """

    config: ClusterConfig
    level: Level
    is_inner: bool = True
    unknown: str = ""

    @property
    def words(self) -> str:
        config = self.config
        if config.role == "evaluator":
            return f"{config.source} says evaluator"
        count = len(config.servers) if config.role == "server" else config.num_workers
        return f"{config.source} says {config.role} rank {config.rank} of {count}"


def incomplete(process: Process, present: str, missing: str) -> ConfigError:
    """Of two variables that belong together only one is set."""
    return ConfigError(
        f"this process is one of several ({present}={process.text(present)}), but {missing} is not "
        f"set; {WHAT_TO_DO}"
    )


def rank_and_size(process: Process, rank_name: str, size_name: str) -> tuple[int, int] | None:
    """The two variables that say so; None if neither is set.

    Raises:
      ConfigError: only one is set, or they are no rank and size.
    """
    present = [name for name in (rank_name, size_name) if process.text(name)]
    if not present:
        return None
    if present == [size_name] and process.number(size_name) == 1:
        return 0, 1
    if len(present) == 1:
        raise incomplete(process, present[0], size_name if present == [rank_name] else rank_name)
    rank, size = process.number(rank_name), process.number(size_name)
    if rank >= size:
        raise ConfigError(
            f"{rank_name}={rank} is no rank below {size_name}={size}; ranks count from 0"
        )
    return rank, size
