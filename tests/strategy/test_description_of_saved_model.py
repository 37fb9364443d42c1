"""What foretells a step of a saved model: which part of its arithmetic is over, and when."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest
from click.testing import CliRunner

from poseidon_tf.launcher.cli import main
from poseidon_tf.planner import ModelDescription
from poseidon_tf.strategy.saved_model import description_of_saved_model, specs_of_saved_model

# Keras saves variables in a way that TensorFlow's arrays do not know yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two dense layers without biases: of 100 x 200 and 200 x 50 weights."""
    model = keras.Sequential(
        [
            keras.Input((100,)),
            keras.layers.Dense(200, use_bias=False, name="bottom"),
            keras.layers.Dense(50, use_bias=False, name="top"),
        ]
    )
    file = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(file)
    return str(file)


def test_layers_take_the_part_of_a_step_that_they_have_of_its_products(path: str) -> None:
    """Products of 2 (bottom) and 1 (top) parts: both forward, then the top's two, the bottom's one.

    The input needs no gradient. So of 2 + 1 + 2 + 2 = 7 parts, 2 are over when the top is read,
    4 when its gradient exists, or 5 if that comes second, and 7 when the bottom's does.
    """
    found = description_of_saved_model(path, batch_size=64)
    bottom, top = (spec.name for spec in found.specs)
    assert found.step_flops == pytest.approx(7 * 2 * 64 * 200 * 50, rel=0.02)
    assert found.needed[bottom] == pytest.approx(0.0, abs=0.01)
    assert found.needed[top] == pytest.approx(2 / 7, abs=0.01)
    assert any(found.exists[top] == pytest.approx(parts / 7, abs=0.015) for parts in (4, 5))
    assert found.exists[bottom] == pytest.approx(1.0, abs=0.01)


def test_a_description_has_the_variables_of_the_plan(path: str) -> None:
    found = description_of_saved_model(path, batch_size=12)
    assert list(found.specs) == specs_of_saved_model(path, batch_size=12)


def test_products_of_attention_are_counted(tmp_path: Path) -> None:
    """4 samples of 64 words of 32 numbers, a head of 64.

    Of the products of words with weights there are 4 forward, and 5 to 8 backward: the input needs
    no gradient, but is traced. Of those of words with words there are 2, and 4.
    """
    inputs = keras.Input((64, 32))
    outputs = keras.layers.MultiHeadAttention(1, 64, use_bias=False)(inputs, inputs)
    file = tmp_path / "attention.keras"
    keras.Model(inputs, outputs).save(file)
    found = description_of_saved_model(str(file), batch_size=4)
    of_weights, of_words = 2 * 4 * 64 * 32 * 64, 2 * 4 * 64 * 64 * 64
    assert 9 * of_weights + 6 * of_words < found.step_flops < 12 * of_weights + 6 * of_words


def test_words_and_loops_have_their_places_in_a_step(tmp_path: Path) -> None:
    """A table of words has rows for its gradient; what a recurrent layer loops over is not counted.

    Every variable is read before any gradient exists, as in every step.
    """
    model = keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            keras.layers.Embedding(100, 16),
            keras.layers.LSTM(8),
            keras.layers.Dense(4),
        ]
    )
    file = tmp_path / "words.keras"
    model.save(file)
    found = description_of_saved_model(str(file), batch_size=5)
    assert len(found.specs) == 6 and any(spec.sparse for spec in found.specs)
    assert max(found.needed.values()) <= min(found.exists.values())
    assert found.exists[found.specs[0].name] == max(found.exists.values())


def test_the_command_saves_a_description_that_answers_as_the_model_does(
    path: str, tmp_path: Path
) -> None:
    file = tmp_path / "model.json"
    rest = ["--workers", "4", "--link", "1gbit", "--step-seconds", "0.01"]
    of_model = CliRunner().invoke(
        main, ["plan", path, "--batch-size", "32", *rest, "--describe", str(file)]
    )
    assert of_model.exit_code == 0, of_model.output
    assert ModelDescription.from_json(file.read_text()).batch_size == 32
    of_description = CliRunner().invoke(main, ["plan", str(file), *rest])
    assert of_description.stdout == of_model.stdout


def test_no_message_of_the_profiler_is_logged(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="tensorflow"):
        description_of_saved_model(path, batch_size=2)
    assert caplog.text == ""
