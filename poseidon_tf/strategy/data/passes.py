"""What the passes over a pipeline have to do with each other.

Each pass over a `shuffle` has an order of its own, which its seeds and the number of passes before
decide. Mostly a pass counts when an iterator is opened; in some pipelines only when it is read.
"""

from __future__ import annotations

import enum
from typing import final

import tensorflow as tf

from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.data.seeds import seeds_of

# Opened, they open all that they read, and they keep nothing for the next pass. Others, such as
# repeat() and cache(), do one of these only as they are read.
_OPENED_AT_ONCE = frozenset(
    {
        *("BatchDataset", "ParallelBatchDataset", "PaddedBatchDataset", "UnbatchDataset"),
        *("MapDataset", "ParallelMapDataset", "FlatMapDataset", "InterleaveDataset"),
        *("ParallelInterleaveDataset", "FilterDataset", "TakeWhileDataset", "ScanDataset"),
        *("PrefetchDataset", "OptionsDataset", "ZipDataset", "ShardDataset"),
        *("TakeDataset", "SkipDataset", "WindowDataset", "AssertCardinalityDataset"),
        *("RebatchDataset", "RestructuredDataset", "DenseToRaggedDataset", "TFRecordDataset"),
    }
)
_READERS = ("TFRecord", "TextLine", "FixedLengthRecord", "SSTable", "RecordIO", "CSVDataset")


@final
class Earlier(enum.IntEnum):
    """How far the earlier passes have to be read for the next one to have its order."""

    OPENED = 0
    BEGUN = 1  # One element.
    READ = 2  # As far as they were.


def earlier_passes(dataset: tf.data.Dataset) -> Earlier:
    """What the order of a pass over the pipeline needs; all where that is not known."""
    if _calls_a_dataset(dataset):
        return Earlier.READ
    sources = tf_internals.sources(dataset)
    needed = max(map(earlier_passes, sources), default=Earlier.OPENED)
    if _kind(dataset) in _OPENED_AT_ONCE or not any(map(seeds_of, sources)):
        return needed
    # A shuffle opens what it shuffles when its first element is asked for.
    is_shuffle = _kind(dataset) == "ShuffleDataset"
    return max(needed, Earlier.BEGUN) if is_shuffle else Earlier.READ


def reads_files(dataset: tf.data.Dataset) -> bool:
    """Whether the pipeline reads records of files, which TensorFlow may deal out among workers."""
    if any(name in _kind(dataset) for name in _READERS):
        return True
    for graph in tf_internals.function_graphs(dataset):
        functions = [function.node_def for function in graph.library.function]
        kinds = {node.op for nodes in [graph.node, *functions] for node in nodes}
        if any(name in kind for kind in kinds for name in _READERS):
            return True
    return any(map(reads_files, tf_internals.sources(dataset)))


def _kind(dataset: tf.data.Dataset) -> str:
    return type(dataset).__name__.strip("_").removesuffix("V2").removesuffix("V1")


def _calls_a_dataset(dataset: tf.data.Dataset) -> bool:
    """Whether a function of it reads a dataset that was made outside, which may be shuffled."""
    return any(
        tensor.dtype == tf.variant
        for tensors in tf_internals.captured_by_functions(dataset)
        for tensor in tensors
    )
