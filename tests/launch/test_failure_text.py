"""What is said of an exception: one line without TensorFlow's nodes, and where it comes from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from poseidon_tf.errors import ConfigError, MemberError, StepTimeout
from poseidon_tf.launch import failure_text

HERE = __file__


def raised_by(function: Any, *args: Any) -> BaseException:
    with pytest.raises(Exception) as caught:
        function(*args)
    return caught.value


@tf.function
def asserting(text: tf.Tensor) -> None:
    tf.debugging.Assert(False, [text])


@tf.function(input_signature=[tf.TensorSpec([None, None])])
def multiplying(rows: tf.Tensor) -> tf.Tensor:
    return tf.matmul(rows, tf.ones([3, 2]))


@tf.function
def tracing() -> tf.Tensor:
    return tf.matmul(tf.ones([4, 5]), tf.ones([3, 2]))


def reading() -> None:
    def elements() -> Any:
        yield 1
        raise ValueError("part 5\n  is broken")

    for _ in tf.data.Dataset.from_generator(elements, output_signature=tf.TensorSpec([], tf.int32)):
        pass


@pytest.mark.parametrize(
    "function, args, says",
    [
        (asserting, ("why",), "InvalidArgumentError: assertion failed: [why]"),
        (multiplying, (tf.ones([4, 5]),), "InvalidArgumentError: Matrix size-incompatible"),
        (tracing, (), "ValueError: Dimensions must be equal, but are 5 and 3 for 'MatMul'"),
        (reading, (), "InvalidArgumentError: ValueError: part 5"),
        (lambda: tf.matmul(tf.ones([4, 5]), tf.ones([3, 2])), (), "InvalidArgumentError: Matrix"),
    ],
)
def test_tensorflow_s_errors_are_told_without_its_nodes(
    function: Callable[..., Any], args: tuple[Any, ...], says: str
) -> None:
    """Of TensorFlow itself: in a graph, while it is traced, in a pipeline's function, and eager."""
    error = raised_by(function, *args)
    line = failure_text.in_one_line(error)
    assert line.startswith(says), line
    for noise in ("{{", "[[", "Op:", "Detected at", "Graph execution", "Traceback", "\n", HERE):
        assert noise not in line


def test_an_exception_s_own_lines_and_brackets_stay() -> None:
    """Only the ends of its lines and colours go, and what is longer than anyone reads."""
    error = ValueError("\x1b[1mshape\x1b[0m [[1, 2]]\n  is not\n\n[3]")
    assert failure_text.in_one_line(error) == "ValueError: shape [[1, 2]] is not [3]"
    assert failure_text.in_one_line(KeyError()) == "KeyError"
    node = "for '{{node MatMul}} = MatMul[T=DT_FLOAT, grad_a=false](ones, ones_1)' of Keras"
    assert failure_text.in_one_line(ValueError(node)) == "ValueError: for 'MatMul' of Keras"
    assert len(failure_text.in_one_line(ValueError("x" * 5000))) == failure_text.MAX_CHARS


def test_the_place_is_in_the_user_s_own_code() -> None:
    """Neither in an installed package nor in the standard library; within a graph, where TensorFlow
    says that the node was made."""
    error = raised_by(multiplying, tf.ones([4, 5]))
    place = failure_text.places_of(error, error.__traceback__)[-1]
    assert (place.path, place.code) == (HERE, "return tf.matmul(rows, tf.ones([3, 2]))")
    error = raised_by(tracing)
    place = failure_text.places_of(error, error.__traceback__)[-1]
    assert (place.path, place.function) == (HERE, "tracing")
    error = raised_by(reading)
    place = failure_text.places_of(error, error.__traceback__)[-1]
    assert place.described.endswith(', in elements: raise ValueError("part 5\\n  is broken")')
    error = raised_by(sys.intern, 5)
    assert failure_text.places_in(error.__traceback__)[-1].function == "raised_by"


@pytest.mark.parametrize("text", ["why", 'the file "größe" isn\'t\n there: C:\\new\t5'])
def test_an_assertion_that_tells_of_the_failure_is_known(text: str) -> None:
    """As a step's graph raises it, with TensorFlow's escapes."""
    cause = StepTimeout(text)
    assert failure_text.is_told_by(raised_by(asserting, f"{text}; rank 0 was in step 3"), cause)
    assert not failure_text.is_told_by(raised_by(asserting, "something else"), cause)


def test_what_two_workers_have_found_is_told_by_either() -> None:
    """The second one's own error is in what the first one has told; a script's is not."""
    cause = MemberError("worker rank 1 (b:1) failed: ConfigError: epochs differ (step)")
    assert failure_text.is_told_by(ConfigError("epochs differ"), cause)
    assert not failure_text.is_told_by(ValueError("epochs differ"), cause)
    assert not failure_text.is_told_by(ConfigError(""), cause)
    assert failure_text.is_told_by(MemberError(f"{cause}; rank 0 was in step 3"), cause)


def test_a_step_that_never_began_has_no_number() -> None:
    assert failure_text.step_words(-1) == "before the first step"
    assert failure_text.step_words(0) == "after step 0"
