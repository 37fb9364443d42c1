"""What decides on the order of a pass over a pipeline: how many passes were before, and how far."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from poseidon_tf.strategy.data.passes import Earlier, earlier_passes, reads_files

pytestmark = pytest.mark.tensorflow
ROWS = 9


def shuffled() -> tf.data.Dataset:
    return tf.data.Dataset.range(ROWS).shuffle(ROWS, seed=1)


def plus_noise(x: Any) -> Any:
    return x + tf.random.uniform([], maxval=9, dtype=tf.int64, seed=2)


def generated() -> Any:
    yield from range(ROWS)


def captured() -> tf.data.Dataset:
    inner = shuffled()
    return tf.data.Dataset.range(2).flat_map(lambda _: inner)


BY_NUMBER: dict[str, Callable[[], tf.data.Dataset]] = {
    "shuffle": shuffled,
    "batches": lambda: shuffled().batch(2).map(lambda x: x).prefetch(2).unbatch(),
    "noise": lambda: shuffled().map(plus_noise),
    "part": lambda: shuffled().skip(2).take(5).filter(lambda x: x > 1),
    "zip": lambda: tf.data.Dataset.zip((shuffled(), shuffled())).map(lambda a, b: 10 * a + b),
    "interleaved": lambda: shuffled().interleave(tf.data.Dataset.range, cycle_length=2),
    "made-within": lambda: shuffled().flat_map(lambda _: shuffled()),
    "generator": lambda: tf.data.Dataset.from_generator(
        generated, output_signature=tf.TensorSpec([], tf.int64)
    ).shuffle(ROWS, seed=1),
    "repeated-before": lambda: tf.data.Dataset.range(ROWS).repeat(2).shuffle(ROWS, seed=1),
    "cached-before": lambda: tf.data.Dataset.range(ROWS).cache().shuffle(ROWS, seed=1),
}
BY_BEGINNING: dict[str, Callable[[], tf.data.Dataset]] = {
    "twice": lambda: shuffled().batch(2).shuffle(4, seed=3).unbatch(),
    "names-and-rows": lambda: shuffled().interleave(tf.data.Dataset.range).shuffle(5, seed=3),
}
BY_READING: dict[str, Callable[[], tf.data.Dataset]] = {
    "repeat": lambda: shuffled().repeat(2),
    "cache": lambda: shuffled().cache(),
    "concatenated": lambda: tf.data.Dataset.range(2).concatenate(shuffled()),
    "captured": captured,
    "repeated-and-shuffled": lambda: shuffled().repeat(2).shuffle(4, seed=3),
}


def third_pass(make: Callable[[], tf.data.Dataset], earlier: Earlier) -> list[int]:
    """What it gives after two passes of which so much was read."""
    dataset = make()
    for _ in range(2):
        num_read = {Earlier.OPENED: 0, Earlier.BEGUN: 1, Earlier.READ: None}[earlier]
        for _ in itertools.islice(iter(dataset), num_read):
            pass
    return [int(each) for each in dataset]


@pytest.mark.parametrize("name", BY_NUMBER)
def test_passes_that_were_only_opened_count_as_if_read(name: str) -> None:
    """So nobody has to read the epochs before the one in which a job goes on."""
    make = BY_NUMBER[name]
    assert earlier_passes(make()) is Earlier.OPENED
    assert third_pass(make, Earlier.OPENED) == third_pass(make, Earlier.READ)


@pytest.mark.parametrize("name", BY_BEGINNING)
def test_a_shuffle_of_what_was_shuffled_counts_when_its_first_element_is_read(name: str) -> None:
    """Only then it opens what it shuffles."""
    make = BY_BEGINNING[name]
    assert earlier_passes(make()) is Earlier.BEGUN
    read = third_pass(make, Earlier.READ)
    assert third_pass(make, Earlier.BEGUN) == read != third_pass(make, Earlier.OPENED)


@pytest.mark.parametrize("name", BY_READING)
def test_where_they_do_not_that_is_known(name: str) -> None:
    """In these the order of a pass comes about while others are read."""
    make = BY_READING[name]
    assert earlier_passes(make()) is Earlier.READ
    assert third_pass(make, Earlier.READ) != third_pass(make, Earlier.BEGUN)


def test_who_reads_records_of_files_is_known(tmp_path: Path) -> None:
    """Directly or in a function: TensorFlow may deal out such files among the workers."""
    names = tf.data.Dataset.from_tensor_slices([str(tmp_path / "a")])
    assert reads_files(tf.data.TFRecordDataset(names).batch(2))
    assert reads_files(names.interleave(tf.data.TextLineDataset).batch(2))
    assert reads_files(names.flat_map(lambda name: tf.data.TFRecordDataset(name).map(lambda x: x)))
    assert not reads_files(names.map(tf.strings.length).batch(2))
