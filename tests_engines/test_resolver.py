"""Without an engine: a script that is given the cluster, for the same weights."""

import json

import pytest

from tests.support.ports import free_addresses
from tests_engines.engine import Folder

pytestmark = pytest.mark.processes


def test_a_cluster_resolver_trains_the_same_weights(folder: Folder, digest: str) -> None:
    addresses = free_addresses(2)
    first, second = (f"RESOLVER='{json.dumps([addresses, rank])}'" for rank in range(2))
    assert folder.digest(f"{first} python train.py & {second} python train.py; wait $!") == digest
