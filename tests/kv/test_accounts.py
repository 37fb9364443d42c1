"""What a server tells of its sums, by the times at which contributions come."""

from poseidon_tf.kv.accounts import SumAccount, SumFigures


def take(account: SumAccount, rank: int, step: int, at_s: float, *, is_last: bool = False) -> None:
    """A contribution that takes a quarter of a second to add."""
    account.took(rank, 0, step, began_s=at_s, ended_s=at_s + 0.25, is_last=is_last)


def test_the_worker_that_sums_waited_for_longest_is_named() -> None:
    """Not the one that was last more often, by less."""
    account = SumAccount(100.0)
    for step, (last, late_s) in enumerate([(2, 1.0), (2, 1.0), (1, 5.0)]):
        begin_s = 110.0 + 20.0 * step
        for rank in {0, 1, 2} - {last}:
            take(account, rank, step, begin_s + rank)
        latest_s = begin_s + max({0, 1, 2} - {last})
        take(account, last, step, latest_s + late_s, is_last=True)
    assert account.look(200.0) == SumFigures(
        sums=3,
        summing_s=9 * 0.25,
        sums_per_s=0.03,
        summing=9 * 0.25 / 100.0,
        last_rank=1,
        last_part=1 / 3,
        late_s=5.0,
    )


def test_each_look_is_at_what_has_happened_since_the_one_before() -> None:
    """Totals go on; where there was no sum nobody was late."""
    account = SumAccount(0.0)
    take(account, 0, 0, 1.0)
    take(account, 1, 0, 3.0, is_last=True)
    assert account.look(10.0).last_rank == 1
    take(account, 1, 1, 11.0)
    take(account, 1, 2, 12.0)
    figures = account.look(20.0)
    assert (figures.sums, figures.sums_per_s, figures.last_rank) == (1, 0.0, -1)
    assert (figures.summing, figures.oldest_wait_s) == (0.05, 9.0)
    assert account.oldest == (0, 1)
    take(account, 0, 1, 21.0, is_last=True)
    assert account.oldest == (0, 2)


def test_a_worker_that_is_alone_is_never_late() -> None:
    account = SumAccount(0.0)
    take(account, 0, 0, 1.0, is_last=True)
    figures = account.look(10.0)
    assert (figures.last_rank, figures.late_s) == (0, 0.0)
