"""Which of Keras's callbacks write, and on which ranks they run."""

from __future__ import annotations

from typing import Any

import keras
import pytest

from poseidon_tf.keras_hooks.writers import WRITERS, arranged, for_rank
from poseidon_tf.strategy.writing import Writing

# These write nothing but to the console, or are containers.
READERS = {
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "SwapEMAWeights",
    "TerminateOnNaN",
}


def writing_of(rank: int, *, on_all: bool = False) -> Writing:
    return Writing(rank, "all" if on_all else "chief")


def test_every_callback_of_keras_is_known_to_write_or_not() -> None:
    """A new one in a newer Keras has to be looked at."""
    names = {name for name in dir(keras.callbacks) if name[0].isupper()}
    assert names == READERS | {writer.__name__ for writer in WRITERS}


@pytest.mark.parametrize("rank, on_all, num_left", [(0, False, 3), (1, False, 1), (1, True, 3)])
def test_writers_run_on_rank_0_or_on_all(
    tmp_path: Any, rank: int, on_all: bool, num_left: int
) -> None:
    """Nested lists are flattened as Keras does it."""

    class Own(keras.callbacks.CSVLogger):
        pass

    path = str(tmp_path / "log.csv")
    given = [keras.callbacks.CSVLogger(path), [Own(path), keras.callbacks.TerminateOnNaN()]]
    assert len(for_rank(writing_of(rank, on_all=on_all), given)) == num_left


def test_no_callbacks_are_no_callbacks() -> None:
    """None, as `fit` has it by default."""
    assert for_rank(writing_of(1), None) == []


def test_a_list_of_the_users_is_whole_again_even_after_an_error(tmp_path: Any) -> None:
    """Within, it holds what this rank runs, between the first and the last."""
    writer = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    reader, first, last = (keras.callbacks.Callback() for _ in range(3))
    model = keras.Sequential()
    given = keras.callbacks.CallbackList([writer, reader], model=model)
    with pytest.raises(KeyError):
        with arranged(writing_of(1), given, model, first=[first], last=[last]) as within:
            assert within is given
            assert given.callbacks == [first, reader, last]
            assert first.model is model
            raise KeyError
    assert given.callbacks == [writer, reader]
