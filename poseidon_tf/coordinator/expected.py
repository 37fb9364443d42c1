"""Who belongs to a job, and where each is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from poseidon_tf.coordinator.messages import Join, MemberKey, Role
from poseidon_tf.errors import ConfigError


def expected_addresses(
    sizes: Mapping[Role, int], worker_addresses: Sequence[str], server_addresses: Sequence[str]
) -> dict[MemberKey, str]:
    """Workers in rank order, then servers, with their addresses; "" where none is known.

    Args:
      sizes: how many there are of each.
      worker_addresses, server_addresses: in rank order; () where unknown. Without addresses as
        many servers as workers live on the workers' hosts.
    """
    if not server_addresses and sizes["server"] == sizes["worker"]:
        server_addresses = [a and f"on the host of {a}" for a in worker_addresses]
    known: dict[Role, Sequence[str]] = {"worker": worker_addresses, "server": server_addresses}
    return {
        MemberKey(role, rank): known[role][rank] if rank < len(known[role]) else ""
        for role in known
        for rank in range(sizes[role])
    }


def check_fits(join: Join, sizes: Mapping[Role, int]) -> None:
    """Raise ConfigError if a newcomer belongs to another cluster."""
    who = f"{join.key} ({join.address})"
    told_sizes: dict[Role, int] = {"worker": join.num_workers, "server": join.num_servers}
    for role, told in told_sizes.items():
        if told != sizes[role]:
            raise ConfigError(
                f"{who} was told of {told} {role}s, the coordinator of {sizes[role]}: "
                "give every member the same cluster, in TF_CONFIG or by what else describes it"
            )
    if not 0 <= join.rank < sizes[join.role]:
        raise ConfigError(f"{who}: this job has {sizes[join.role]} {join.role}s")
