"""How many rows a worker's batch has."""

from poseidon_tf.strategy.data.batches import BatchSizes


def test_in_fit_the_training_data_counts_and_validation_data_does_not() -> None:
    """The first dataset of a fit is the training data."""
    sizes = BatchSizes(None)
    with sizes.fit(None):
        sizes.saw(16)
        sizes.saw(64)
        assert sizes.rows() == 16


def test_arrays_whose_dataset_hides_its_batch_have_that_of_fit() -> None:
    """A dataset that ends in a partial batch does not tell; what `fit` was given does."""
    sizes = BatchSizes(None)
    with sizes.fit(16):
        sizes.saw(None)
        assert sizes.rows() == 16
    with sizes.fit(16):
        sizes.saw(8)
        assert sizes.rows() == 8


def test_outside_of_fit_datasets_must_agree() -> None:
    """Two datasets with different batches leave the training batch unknown."""
    sizes = BatchSizes(None)
    assert sizes.rows() is None
    sizes.saw(16)
    assert sizes.rows() == 16
    sizes.saw(32)
    assert sizes.rows() is None


def test_what_the_user_says_overrides_everything() -> None:
    """`rows_per_step` is the last word."""
    sizes = BatchSizes(7)
    with sizes.fit(16):
        sizes.saw(8)
        assert sizes.rows() == 7
