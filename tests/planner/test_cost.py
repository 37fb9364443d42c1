"""Table 1 and Algorithm 1, against the numbers in the paper."""

import pytest

from poseidon_tf.planner import cost

FC = {"M": 4096, "N": 4096}
K, P1, P2 = 32, 8, 8


@pytest.mark.parametrize(
    "values, millions",
    [
        (cost.ps_worker(**FC), 33.6),
        (cost.ps_server(**FC, P1=P1, P2=P2), 33.6),
        (cost.ps_node(**FC, P1=P1, P2=P2), 58.7),
        (cost.sfb_worker(**FC, K=K, P1=P1), 3.67),
        (cost.adam_server(**FC, K=K, P1=P1), 136.3),
        (cost.adam_worker(**FC, K=K), 17.0),
        (cost.adam_node(**FC, K=K, P1=P1), 119.3),
    ],
    ids=["ps worker", "ps server", "ps both", "sfb", "adam server", "adam worker", "adam both"],
)
def test_the_worked_example_of_table_1(values: float, millions: float) -> None:
    assert values / 1e6 == pytest.approx(millions, abs=0.05 if millions > 10 else 0.005)


@pytest.mark.parametrize(
    "workers, pays",
    [
        (2, True),  # few peers: few factors
        (128, True),  # exactly the break-even 2MN / (K(M+N)); a tie goes to SFB
        (129, False),
    ],
)
def test_vgg_fc7_switches_after_128_nodes(workers: int, pays: bool) -> None:
    assert cost.sfb_pays(4096, 4096, 32, workers, workers, co_located=True) is pays


def test_googlenet_classifier_stays_with_the_servers_at_batch_128_on_16_nodes() -> None:
    assert not cost.sfb_pays(1024, 1000, 128, 16, 16, co_located=True)


def test_with_as_many_servers_as_workers_the_rule_is_kp_against_2mn_over_m_plus_n() -> None:
    for M, N, rows, P in [(10, 64, 4, 4), (100, 300, 25, 6), (100, 300, 25, 7), (7, 7, 7, 2)]:
        assert cost.sfb_pays(M, N, rows, P, P, True) is (rows * P * (M + N) <= 2 * M * N)


@pytest.mark.parametrize("P1, P2", [(4, 2), (4, 4), (4, 8)])
def test_dedicated_servers_are_compared_at_their_busier_side(P1: int, P2: int) -> None:
    for rows in range(1, 200):
        busiest = max(cost.ps_worker(64, 96), cost.ps_server(64, 96, P1, P2))
        expected = cost.sfb_worker(64, 96, rows, P1) <= busiest
        assert cost.sfb_pays(64, 96, rows, P1, P2, co_located=False) is expected


def test_a_rebuild_multiplies_the_rows_of_all_workers() -> None:
    assert cost.rebuild_flops(4096, 4096, 32, 8) == 2 * 8 * 32 * 4096 * 4096
