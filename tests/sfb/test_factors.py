"""Factors as bytes and back, and the sum they stand for."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.sfb.factors import Columns, RowSpec, joined, pack, product, unpack


def factors(
    rows: int, M: int, N: int, dtype: str | type[Any] = "float32", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    U_KM, V_KN = rng.standard_normal((rows, M)), rng.standard_normal((rows, N))
    return U_KM.astype(dtype), V_KN.astype(dtype)


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_packed_factors_come_apart_as_they_were(rows: int, name: str) -> None:
    """U comes first, then V, row by row, in as many bytes as the spec says."""
    spec = RowSpec.factors("fc7", M=3, N=2, dtype=name)
    U_KM, V_KN = factors(rows, 3, 2, name)
    packed = pack(U_KM, V_KN)
    assert packed == U_KM.tobytes() + V_KN.tobytes()
    assert len(packed) == spec.num_bytes(rows)
    for payload in (packed, bytearray(packed), memoryview(packed)):
        unpacked = unpack(payload, spec, rows)
        assert all(np.array_equal(*pair) for pair in zip(unpacked, (U_KM, V_KN), strict=True))
        assert [part.shape for part in unpacked] == [(rows, 3), (rows, 2)]
        assert all(part.dtype == name for part in unpacked)


def test_bfloat16_factors_travel_as_their_bits() -> None:
    """numpy offers no buffer of that type; the packed bytes are its bits all the same."""
    U_KM, V_KN = factors(4, 3, 2, ml_dtypes.bfloat16)
    packed = pack(U_KM, V_KN)
    assert packed == U_KM.tobytes() + V_KN.tobytes()
    spec = RowSpec.factors("fc7", M=3, N=2, dtype="bfloat16")
    bits_KM, bits_KN = unpack(packed, spec, 4)
    assert np.array_equal(bits_KM.view(ml_dtypes.bfloat16), U_KM)
    assert np.array_equal(bits_KN.view(ml_dtypes.bfloat16), V_KN)


def test_factors_need_not_lie_row_by_row() -> None:
    """Transposed, strided and Fortran-ordered arrays pack as their values read."""
    U_KM, V_KN = factors(4, 6, 2)
    packed = pack(np.asfortranarray(U_KM)[:, ::2], V_KN.T.copy().T)
    assert packed == U_KM[:, ::2].tobytes() + V_KN.tobytes()


@pytest.mark.parametrize("rows, num_whole", [(0, 0), (0, 1), (3, 0), (2, 2)])
def test_whole_gradients_follow_the_factors(rows: int, num_whole: int) -> None:
    """Their number shows in the bytes; they have a type of their own."""
    spec = RowSpec.factors("fc7", M=3, N=2, dtype="float16", whole=Columns(8, "float32"))
    U_KM, V_KN = factors(rows, 3, 2, "float16")
    whole = np.arange(num_whole * 8, dtype="float32").reshape(num_whole, 8)
    packed = pack(U_KM, V_KN, whole)
    assert spec.num_whole(rows, len(packed)) == num_whole
    unpacked = unpack(packed, spec, rows)
    assert all(np.array_equal(*pair) for pair in zip(unpacked, (U_KM, V_KN, whole), strict=True))


def test_bytes_that_are_no_whole_gradient_do_not_fit() -> None:
    """Nor do any behind the factors where nothing may go whole."""
    spec = RowSpec.factors("fc7", M=3, N=2, dtype="float32", whole=Columns(8, "float32"))
    assert [spec.num_whole(2, 40 + extra) for extra in (-32, -1, 0, 31, 32, 33)] == [
        None,
        None,
        0,
        None,
        1,
        None,
    ]
    plain = RowSpec.factors("fc7", M=3, N=2, dtype="float32")
    assert [plain.num_whole(2, 40 + extra) for extra in (0, 32)] == [0, None]


def test_a_type_without_a_sum_has_no_factors() -> None:
    """The spec's size asks for a type that the wire knows."""
    with pytest.raises(ProtocolError, match="complex64"):
        RowSpec.factors("fc7", M=3, N=2, dtype="complex64").num_bytes(1)


@pytest.mark.parametrize("rows_by_rank", [(4,), (2, 3), (0, 5, 1), (0, 0)])
def test_the_product_of_joined_factors_is_the_sum_of_outer_products(
    rows_by_rank: tuple[int, ...],
) -> None:
    """U^T V over all rows equals the sum over ranks and rows of single outer products."""
    by_rank = [factors(rows, 3, 2, "float64", rank) for rank, rows in enumerate(rows_by_rank)]
    U_KM, V_KN = joined(by_rank)
    assert (len(U_KM), len(V_KN)) == (sum(rows_by_rank),) * 2
    expected = np.zeros((3, 2))
    for U, V in by_rank:
        for k in range(len(U)):
            expected += np.outer(U[k], V[k])
    np.testing.assert_allclose(product(U_KM, V_KN), expected, rtol=1e-12, atol=1e-15)


def test_factors_are_joined_in_the_order_given() -> None:
    """Rank after rank, so that every worker multiplies the same matrices."""
    first, second = factors(2, 3, 2, seed=1), factors(1, 3, 2, seed=2)
    U_KM, V_KN = joined([first, second])
    assert np.array_equal(U_KM, np.vstack([first[0], second[0]]))
    assert np.array_equal(V_KN, np.vstack([first[1], second[1]]))


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("rows_by_rank", [(3, 2), (0, 1), (0, 0)])
def test_sparse_rows_travel_with_their_indices(
    index_dtype: str, rows_by_rank: tuple[int, int]
) -> None:
    """Indices and values have types of their own, whatever alignment that gives."""
    spec = RowSpec.sparse("words", num_rows=50, width=3, dtype="float16", index_dtype=index_dtype)
    rng = np.random.default_rng(3)
    mine = [
        (rng.integers(0, 50, rows).astype(index_dtype), rng.standard_normal((rows, 3)).astype("f2"))
        for rows in rows_by_rank
    ]
    unpacked = []
    for rows, arrays in zip(rows_by_rank, mine, strict=True):
        packed = pack(*arrays)
        assert len(packed) == spec.num_bytes(rows)
        assert spec.fault(packed, rows) == ""
        unpacked.append(unpack(packed, spec, rows))
    indices, values = joined(unpacked)
    assert indices.dtype == index_dtype
    assert np.array_equal(indices.reshape(-1), np.concatenate([each for each, _ in mine]))
    assert np.array_equal(values, np.concatenate([each for _, each in mine]))
