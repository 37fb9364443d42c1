"""Seeds of TensorFlow's random operations: a script's own stay what they are, open ones are alike.

TensorFlow makes an operation's seeds of the script's one for all (`tf.random.set_seed`) and of the
operation's own. Where a script gives either, they are what they are in one process. Where it gives
neither, each process would draw its own; here the job's seed counts, so that all workers shuffle
alike. To seed TensorFlow with it instead would change what the operations' own seeds give. Within
replicas each draws its own, and the first one draws what one process does.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from typing import Any, final

import tensorflow as tf

from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.replacements import replace_method
from poseidon_tf.strategy.strategy import runtime_of_replica

# A prime, so that replicas have no seed of one another's, whatever small numbers users take.
_STRIDE = 1_000_003
_SEEDS = 2**31 - 1  # TensorFlow's seeds are below.


@final
class _OpenSeeds:
    """Seeds of operations for which a script has none.

    As TensorFlow makes them of a script's seed: the operations of a graph are counted, for a worker
    that alone traces a step again must not change what it draws in other graphs.
    """

    def __init__(self, seed: int) -> None:
        self._eager_seed = seed % _SEEDS or 1  # TensorFlow takes two zeros for no seed.
        self._random = random.Random(seed)
        self._in_graphs: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.other_graphs()

    def next(self) -> tuple[int, int]:
        if tf.executing_eagerly():
            return self._eager_seed, self._random.randrange(_SEEDS)
        graph = tf_internals.graph()
        count = self._in_graphs.get(graph, 0)
        self._in_graphs[graph] = count + 1
        return self._graph_seed, count

    def other_graphs(self, seed: int | None = None) -> int:
        """Graphs that are traced from now on draw other numbers than those before."""
        drawn = self._random.randrange(1, _SEEDS)
        self._graph_seed = seed or drawn
        return self._graph_seed


_open: _OpenSeeds | None = None


def begin(seed: int) -> None:
    """From now on operations that a script leaves without a seed draw alike where `seed` is."""
    global _open
    replace_method(tf_internals.random_seed, "get_seed", _get_seed)
    _open = _OpenSeeds(seed)


def other_graphs(seed: int | None = None) -> int:
    """Let what is traced from now on draw other numbers; all workers call it together.

    Else a `fit` after another would have the samples in the same orders.

    Args:
      seed: what an earlier call has returned, to draw what was drawn after that.
    """
    return 0 if _open is None else _open.other_graphs(seed)


def end() -> None:
    """From now on they draw as TensorFlow has it, each process its own."""
    global _open
    _open = None


def _get_seed(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def get_seed(op_seed: Any) -> Any:
        first, second = original(op_seed)
        if first is None:
            if _open is None:
                return first, second
            first, second = _open.next()
        if runtime := runtime_of_replica():
            first = (first + runtime.replica * _STRIDE) % _SEEDS or 1
        return first, second

    return get_seed
