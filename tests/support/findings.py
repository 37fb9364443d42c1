"""Compares what workers found with what one process found."""

from __future__ import annotations

from typing import Any

import numpy as np


def assert_close(found: Any, expected: Any, *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Equal in structure, and in numbers to the rounding of float32."""
    if isinstance(expected, dict):
        assert sorted(found) == sorted(expected)
        for name in expected:
            assert_close(found[name], expected[name], rtol=rtol, atol=atol)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            assert_close(mine, theirs, rtol=rtol, atol=atol)
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)
    else:
        assert found == expected
