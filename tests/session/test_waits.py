"""When a wait is reported, and when it is over; every wait by itself."""

import pytest

from poseidon_tf.session.waits import StallReports, listed, situation


def test_a_wait_is_reported_at_first_and_then_again_and_again_until_it_ends() -> None:
    """With the defaults: after 30 s, every 60 s from then on, and the end at 600 s."""
    stalls = StallReports(first_s=30.0, repeat_s=60.0, end_s=600.0)
    due = {now_s: stalls.look(0.0, float(now_s)) for now_s in range(601)}
    assert [now_s for now_s, what in due.items() if what == "report"] == list(range(30, 600, 60))
    assert [now_s for now_s, what in due.items() if what == "end"] == [600]


def test_another_wait_has_reports_of_its_own() -> None:
    """That the one before was reported late does not keep the next one from being reported."""
    stalls = StallReports(first_s=30.0, repeat_s=60.0, end_s=600.0)
    assert [stalls.look(0.0, now_s) for now_s in (29.0, 31.0, 60.0)] == ["wait", "report", "wait"]
    assert stalls.look(60.0, 89.0) == "wait"
    assert stalls.look(60.0, 90.0) == "report"
    assert stalls.look(None, 95.0) == "wait"
    assert stalls.look(100.0, 131.0) == "report"


@pytest.mark.parametrize(
    "names, text",
    [(["a"], "'a'"), (["a", "b"], "'a', 'b'"), (["a", "b", "c", "d"], "'a', 'b' and 2 more")],
)
def test_a_list_of_names_is_short(names: list[str], text: str) -> None:
    """Two of them, and how many more."""
    assert listed(names) == text


@pytest.mark.parametrize(
    "last_step, variables, others, text",
    [
        (-1, [], [], "rank 2 was before its first step and waited for nothing"),
        (0, ["a"], [], "rank 2 was in step 0 and waited for 'a'"),
        (7, [], ["all workers to x"], "rank 2 was in step 7 and waited for all workers to x"),
        (
            7,
            ["a"],
            ["all workers to x"],
            "rank 2 was in step 7 and waited for 'a', all workers to x",
        ),
    ],
)
def test_where_a_worker_was_is_one_phrase(
    last_step: int, variables: list[str], others: list[str], text: str
) -> None:
    """The step, and everything that it waited for."""
    assert situation(2, last_step, variables, others) == text
