"""The exchange, by feeding it pieces and reading which sets they complete."""

import itertools
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.sfb.exchange import (
    MAX_FACTOR_BYTES,
    MAX_WHOLE,
    CompleteSet,
    Deserted,
    FactorExchange,
)
from poseidon_tf.sfb.factors import Columns, RowSpec

SPEC = RowSpec.factors("fc7/kernel", M=3, N=2, dtype="float32")
ROW_BYTES = 20
OWN = 1  # This worker's rank.


def exchange_of(num_workers: int) -> FactorExchange:
    exchange = FactorExchange(num_workers=num_workers, rank=OWN)
    exchange.register(5, SPEC)
    return exchange


def data_of(rank: int, rows: int, step: int = 0) -> bytes:
    return bytes([16 * rank + step]) * (rows * ROW_BYTES)


def add(
    exchange: FactorExchange,
    rank: int,
    rows: int,
    step: int = 0,
    *,
    key: int = 5,
    cut_bytes: int | None = None,
) -> list[Any]:
    """All of a rank's factors, in pieces; what the last of them completed."""
    data = data_of(rank, rows, step)
    outcomes: list[Any] = []
    for begin in range(0, max(len(data), 1), cut_bytes or max(len(data), 1)):
        assert outcomes == []
        piece = memoryview(data)[begin : begin + (cut_bytes or len(data))]
        outcomes = exchange.add(rank, key, step, rows, begin, len(data), piece)
    return outcomes


def arrive(
    exchange: FactorExchange, rank: int, rows: int, step: int = 0, **options: int
) -> list[Any]:
    if rank == OWN:
        return exchange.add_own(5, step, rows, data_of(rank, rows, step))
    return add(exchange, rank, rows, step, **options)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_set_is_complete_when_all_ranks_are_there_and_in_rank_order(
    order: tuple[int, int, int, int],
) -> None:
    """Whoever comes last, own factors included, completes it, step after step."""
    exchange = exchange_of(4)
    rows = [3, 2, 7, 1]  # K may differ by rank.
    for step in range(2):
        for rank in order[:-1]:
            assert arrive(exchange, rank, rows[rank], step) == []
        assert exchange.missing() == [("fc7/kernel", step, [order[-1]])]
        factors = tuple((rows[rank], data_of(rank, rows[rank], step)) for rank in range(4))
        assert arrive(exchange, order[-1], rows[order[-1]], step) == [CompleteSet(5, step, factors)]
        assert exchange.missing() == []


@pytest.mark.parametrize("cut_bytes", [1, 7, 20, 59, 60])
def test_factors_may_come_in_pieces(cut_bytes: int) -> None:
    """However they are cut, only the last piece counts as arrival."""
    exchange = exchange_of(2)
    exchange.add_own(5, 0, 1, data_of(OWN, 1))
    (complete,) = add(exchange, 0, 3, cut_bytes=cut_bytes)
    assert complete.factors == ((3, data_of(0, 3)), (1, data_of(OWN, 1)))


@pytest.mark.parametrize("seed", range(10))
def test_pieces_of_several_ranks_and_keys_may_mix(seed: int) -> None:
    """Each rank's order within a key is all that counts."""
    rng = random.Random(seed)
    exchange = exchange_of(3)
    exchange.register(6, SPEC)
    streams = []
    for rank, key in itertools.product((0, 2), (5, 6)):
        data = bytes([rank + key]) * (4 * ROW_BYTES)
        cuts = [(begin, memoryview(data)[begin : begin + 11]) for begin in range(0, 80, 11)]
        streams.append([(rank, key, 0, 4, begin, 80, piece) for begin, piece in cuts])
    for key in (5, 6):
        exchange.add_own(key, 0, 1, data_of(OWN, 1))
    complete: list[Any] = []
    while streams := [stream for stream in streams if stream]:
        complete += exchange.add(*rng.choice(streams).pop(0))
    assert sorted(each.key for each in complete) == [5, 6]
    for each in complete:
        assert [data[0] for _, data in each.factors] == [each.key, 16 * OWN, 2 + each.key]


@pytest.mark.parametrize("rows", [(0, 0, 0), (0, 2, 0), (3, 0, 1)])
def test_a_worker_may_have_no_rows(rows: tuple[int, int, int]) -> None:
    """Factors of no rows are no bytes, and count as contributed."""
    exchange = exchange_of(3)
    for rank in (OWN, 2):
        assert arrive(exchange, rank, rows[rank]) == []
    (complete,) = arrive(exchange, 0, rows[0])
    assert [(k, len(data)) for k, data in complete.factors] == [(k, k * ROW_BYTES) for k in rows]


def test_a_worker_may_send_a_gradient_whole() -> None:
    """Without rows, or behind them; only as many as a worker has replicas, and nothing else."""
    exchange = FactorExchange(num_workers=3, rank=OWN)
    whole = Columns(8, "float32")
    exchange.register(5, RowSpec.factors("fc7", M=3, N=2, dtype="float32", whole=whole))
    data = bytes(range(ROW_BYTES + 32))
    assert exchange.add(0, 5, 0, 1, 0, len(data), memoryview(data)) == []
    for total in (ROW_BYTES + 31, ROW_BYTES + 32 * (MAX_WHOLE + 1)):
        with pytest.raises(ProtocolError, match=f"of {total} for 'fc7'"):
            exchange.add(2, 5, 0, 1, 0, total, memoryview(bytes(8)))
    assert exchange.add(2, 5, 0, 0, 0, 32, memoryview(data[:32])) == []
    (complete,) = exchange.add_own(5, 0, 0, b"")
    assert isinstance(complete, CompleteSet)
    assert complete.factors == ((1, data), (0, b""), (0, data[:32]))


def test_a_peer_may_be_a_step_ahead() -> None:
    """Factors for the next step wait; sets are completed step by step."""
    exchange = exchange_of(2)
    assert add(exchange, 0, 1, step=0) == add(exchange, 0, 2, step=1) == []
    assert exchange.missing() == [("fc7/kernel", 0, [1]), ("fc7/kernel", 1, [1])]
    assert [each.step for each in arrive(exchange, OWN, 1, step=0)] == [0]
    assert [each.step for each in arrive(exchange, OWN, 1, step=1)] == [1]


def half_fed_exchange() -> FactorExchange:
    """Of three workers, rank 0 has sent step 0 and one row of two of step 1."""
    exchange = exchange_of(3)
    add(exchange, 0, 1, step=0)
    exchange.add(0, 5, 1, 2, 0, 40, memoryview(data_of(0, 1, 1)))
    return exchange


@pytest.mark.parametrize(
    "rank, key, step, rows, offset, total, num_bytes, text",
    [
        (0, 5, 0, 1, 0, 20, 20, "for step 0 twice"),
        (0, 5, 2, 1, 0, 20, 20, "for step 2; its next step is 1"),
        (2, 5, 1, 1, 0, 20, 20, "its next step is 0"),
        (0, 6, 0, 1, 0, 20, 20, "unit 6, which is not in the plan"),
        (1, 5, 0, 1, 0, 20, 20, "factors from rank 1; this is rank 1"),
        (3, 5, 0, 1, 0, 20, 20, "factors from rank 3"),
        (-1, 5, 0, 1, 0, 20, 20, "factors from rank -1"),
        (0, 5, 1, 2, 0, 40, 20, "40 bytes from 20 on are due"),
        (0, 5, 1, 2, 30, 40, 10, "40 bytes from 20 on are due"),
        (0, 5, 1, 2, 20, 40, 21, "bytes 20..41 of 40"),
        (0, 5, 1, 2, 20, 40, 0, "bytes 20..20 of 40"),
        (0, 5, 1, 3, 20, 60, 20, "changed the size of 'fc7/kernel' within step 1"),
        (2, 5, 0, 2, 0, 20, 20, "40 bytes from 0 on are due"),
        (2, 5, 0, 0, 0, 0, 20, "bytes 0..20 of 0"),
        (2, 5, 0, 1, 0, 20, 0, "bytes 0..0 of 20"),
        (2, 5, 0, 10**8, 0, 2 * 10**9, 20, "of 2000000000"),
    ],
)
def test_a_refused_piece_changes_nothing(
    rank: int, key: int, step: int, rows: int, offset: int, total: int, num_bytes: int, text: str
) -> None:
    """Twice, early, of a stranger, out of order or of a wrong size: refused, and all goes on."""
    exchange = half_fed_exchange()
    missing = exchange.missing()
    with pytest.raises(ProtocolError, match=text):
        exchange.add(rank, key, step, rows, offset, total, memoryview(bytes(num_bytes)))
    assert exchange.missing() == missing
    assert exchange.add(0, 5, 1, 2, 20, 40, memoryview(data_of(0, 1, 1))) == []
    for step, rows in enumerate((1, 2)):
        assert add(exchange, 2, 1, step) == []
        (complete,) = exchange.add_own(5, step, 1, data_of(OWN, 1))
        assert isinstance(complete, CompleteSet)
        assert complete.factors[0] == (rows, data_of(0, rows, step))


def test_no_memory_is_taken_beyond_the_bound() -> None:
    """Rows that would need more than the bound are refused with their first piece."""
    rows = MAX_FACTOR_BYTES // ROW_BYTES + 1
    with pytest.raises(ProtocolError, match=f"{rows} rows"):
        exchange_of(2).add(0, 5, 0, rows, 0, rows * ROW_BYTES, memoryview(bytes(20)))


def test_memory_is_taken_for_bytes_that_came_and_not_for_those_announced() -> None:
    """A piece of 20 bytes says that a gigabyte will follow."""
    exchange, rows = exchange_of(2), MAX_FACTOR_BYTES // ROW_BYTES
    tracemalloc.start()
    try:
        assert exchange.add(0, 5, 0, rows, 0, rows * ROW_BYTES, memoryview(bytes(20))) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024


def test_two_steps_ahead_is_impossible_and_refused() -> None:
    """A peer cannot have finished a step without this worker's factors."""
    exchange = exchange_of(2)
    add(exchange, 0, 1, step=0)
    add(exchange, 0, 1, step=1)
    with pytest.raises(ProtocolError, match="two steps ahead"):
        add(exchange, 0, 1, step=2)
    exchange.add_own(5, 0, 1, data_of(OWN, 1))
    assert add(exchange, 0, 1, step=2) == []


def test_what_a_broken_stream_began_to_send_comes_again_whole() -> None:
    """Pieces of factors that never became whole are forgotten; whole ones stay."""
    exchange = half_fed_exchange()
    exchange.drop_pieces(0)
    assert add(exchange, 0, 2, step=1) == []
    assert exchange.missing() == [("fc7/kernel", 0, [1, 2]), ("fc7/kernel", 1, [1, 2])]


def test_a_leaver_deserts_the_sets_that_miss_its_factors() -> None:
    """Open sets without them are named at once, later ones as soon as anyone waits for them."""
    exchange = half_fed_exchange()
    reason = "rank 2 left after step 4 while rank 1 waits for the factors of 'fc7/kernel' of step "
    assert exchange.leave(2, 4) == [Deserted(2, f"{reason}0")]
    assert exchange.add_own(5, 0, 1, data_of(OWN, 1)) == [Deserted(2, f"{reason}0")]
    assert exchange.add_own(5, 1, 1, data_of(OWN, 1)) == [Deserted(2, f"{reason}1")]


def test_a_leaver_that_never_began_has_no_step() -> None:
    """Who has left before its first step did not leave after step -1."""
    (deserted,) = half_fed_exchange().leave(2, -1)
    assert isinstance(deserted, Deserted)
    assert deserted.reason.startswith("rank 2 left before its first step while rank 1 waits for ")


def test_a_leaver_whose_factors_are_there_deserts_nobody() -> None:
    """The sets that it has contributed to are completed by the others."""
    exchange = exchange_of(3)
    add(exchange, 0, 1)
    assert exchange.leave(0, 0) == []
    add(exchange, 2, 1)
    (complete,) = exchange.add_own(5, 0, 1, data_of(OWN, 1))
    assert isinstance(complete, CompleteSet)


TABLE = RowSpec.sparse("words", num_rows=9, width=2, dtype="float16", index_dtype="int32")


def rows_of(*indices: int) -> bytes:
    return np.asarray(indices, "<i4").tobytes() + np.ones((len(indices), 2), "<f2").tobytes()


@pytest.mark.parametrize("cut_bytes", [5, 24])
@pytest.mark.parametrize("index", [-1, 9, 2**31 - 1])
def test_a_row_that_the_table_does_not_have_is_refused(cut_bytes: int, index: int) -> None:
    """Whoever sends it is named, and the right rows may still come."""
    exchange = FactorExchange(num_workers=2, rank=OWN)
    exchange.register(5, TABLE)

    def send(data: bytes) -> list[Any]:
        outcomes: list[Any] = []
        for begin in range(0, len(data), cut_bytes):
            piece = memoryview(data)[begin : begin + cut_bytes]
            outcomes = exchange.add(0, 5, 0, 3, begin, len(data), piece)
        return outcomes

    with pytest.raises(ProtocolError, match=f"rank 0, step 0: 'words' has rows 0..8, .* {index}"):
        send(rows_of(0, index, 8))
    exchange.drop_pieces(0)
    assert exchange.add_own(5, 0, 0, b"") == []
    (complete,) = send(rows_of(8, 0, 8))
    assert complete.factors == ((3, rows_of(8, 0, 8)), (0, b""))


def test_factors_begin_at_the_first_step_of_their_key() -> None:
    """A peer may be one step ahead of this worker from there on, and sends nothing earlier."""
    exchange = FactorExchange(num_workers=2, rank=OWN)
    exchange.register(5, SPEC, 7)
    for step in (0, 6, 8):
        with pytest.raises(ProtocolError, match=f"for step {step}"):
            add(exchange, 0, 1, step)
    assert add(exchange, 0, 1, 7) == []
    (complete,) = exchange.add_own(5, 7, 1, data_of(OWN, 1, 7))
    assert isinstance(complete, CompleteSet) and complete.step == 7
    assert add(exchange, 0, 1, 8) == []
