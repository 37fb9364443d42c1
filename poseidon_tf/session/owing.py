"""Who owes contributions, as far as one worker can find out: its replicas, peers and servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from poseidon_tf.errors import PoseidonError
from poseidon_tf.kv.client import ServerLink
from poseidon_tf.session.naming import WorkerNames
from poseidon_tf.session.session import Route
from poseidon_tf.session.waits import listed

# A server that serves answers at once; the report must not wait for one that does not.
ANSWER_S = 1.0
_MOST_OWING = 8


def missing_replicas(rank: int, routes: Sequence[Route], names: WorkerNames) -> Iterator[str]:
    """What replicas of this worker owe."""
    for route in routes:
        for step, replicas in route.missing_replicas().items():
            which = ", ".join(map(str, replicas))
            yield (
                f"{listed(route.variables)} of step {step} from replica {which} of this worker, "
                f"{names.one(rank)}"
            )


def missing_factors(
    sets: Sequence[tuple[str, int, list[int]]], names: WorkerNames
) -> Iterator[str]:
    """What peers owe: (variable, step, their ranks)."""
    for name, step, ranks in sets:
        yield f"{name!r} of step {step} from {names.all_of(ranks)}"


def missing_at_servers(
    links: Sequence[ServerLink], routes: Sequence[Route], names: WorkerNames
) -> Iterator[str]:
    """Whose contributions servers have not got; they are asked."""
    variables = {route.name: route.variables for route in routes}
    for index, link in enumerate(links):
        yield from _missing_at_server(index, link, variables, names)


def _missing_at_server(
    index: int, link: ServerLink, variables: Mapping[str, Sequence[str]], names: WorkerNames
) -> Iterator[str]:
    """Of one server; `variables` are those whose gradients travel by a route, by its name."""
    try:
        counts = link.inspect(timeout_s=ANSWER_S)
    except PoseidonError as failure:
        yield f"server {index} ({link.address}): {failure}"
        return
    for key in counts.keys:
        behind = [r for r, n in enumerate(key.contributions) if n < max(key.contributions)]
        if behind:
            of = variables.get(key.name.rpartition("#")[0], (key.name,))
            yield f"{listed(of)} of step {min(key.contributions)} from {names.all_of(behind)}"


def described(owing: Sequence[str]) -> str:
    """All that is owed, in one line."""
    each = list(dict.fromkeys(owing))  # A variable may be cut over several servers.
    return "missing: " + "; ".join(each[:_MOST_OWING]) if each else "nobody owes anything"
