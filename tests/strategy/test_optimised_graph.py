"""The local gradient product of an SFB kernel is not computed at all."""

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("net", ["plain", "sequences"])
def test_one_product_per_kernel_and_its_inputs_are_the_received_factors(net: str) -> None:
    """Of three SFB kernels the optimised step holds three products, all of what was pulled."""
    with Job("graph.py", net, num_workers=2, num_servers=1) as job:
        for found in job.results():
            (products,) = found["products"]
            assert products == [["QueueDequeueV2", "QueueDequeueV2"]] * 3
