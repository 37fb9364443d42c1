"""The real Prometheus scrapes a real job, and the dashboard asks for what it has then."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.certificates import Authority
from tests.support.jobs import Job
from tests.support.ports import free_addresses

pytestmark = pytest.mark.processes

DASHBOARD = Path(__file__).parents[1] / "examples" / "grafana" / "poseidon.json"
TOKEN = "a-token-of-this-job"
PATIENCE_S = 120.0


class Prometheus:
    """A server that scrapes `target` every second, with TLS and the job's token."""

    def __init__(self, folder: Path, target: str, authority: Authority) -> None:
        files = authority.member("127.0.0.1", name="prometheus")
        scraping = {
            "job_name": "training",
            "scheme": "https",
            "scrape_interval": "1s",
            "tls_config": {
                "ca_file": authority.ca,
                "cert_file": files["certificate"],
                "key_file": files["key"],
            },
            "authorization": {"credentials": TOKEN},
            "static_configs": [{"targets": [target]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [scraping]}))
        (self.address,) = free_addresses(1)
        self._log = (folder / "prometheus.log").open("w+")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.address}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def query(self, expression: str) -> list[Any]:
        """The samples that it has for it now; [] until it listens."""
        question = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(
                f"http://{self.address}/api/v1/query?{question}", timeout=20
            ) as answer:
                found: list[Any] = json.load(answer)["data"]["result"]
                return found
        except urllib.error.URLError:  # It does not listen yet.
            assert self._process.poll() is None, self.log()
            return []

    def wait_for(self, expression: str) -> list[Any]:
        """The same, once there are some."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline_s, f"{expression}: nothing\n{self.log()}"
            time.sleep(0.2)
        return found

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()[-4000:]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus while a job of two workers trains."""
    folder = tmp_path_factory.mktemp("prometheus")
    authority = Authority(folder)
    files = authority.member("127.0.0.1")
    environ = {
        "POSEIDON_TOKEN": TOKEN,
        "POSEIDON_TLS_CA": authority.ca,
        "POSEIDON_TLS_CERTIFICATE": files["certificate"],
        "POSEIDON_TLS_KEY": files["key"],
    }
    (target,) = free_addresses(1)
    with Job("seen.py", str(folder / "end"), target.split(":")[1], environ=environ) as job:
        prometheus = Prometheus(folder, target, authority)
        try:
            yield prometheus
        finally:
            prometheus.close()
        (folder / "end").touch()
        job.results()


def test_prometheus_has_what_the_workers_have_told(scraped: Prometheus) -> None:
    workers = scraped.wait_for("poseidon_steps_total > 12")
    scraped.wait_for("count(poseidon_steps_total) == 2")
    assert {sample["metric"]["job"] for sample in workers} == {"training"}
    (here,) = scraped.query('poseidon_members{role="worker", is="here"}')
    assert here["value"][1] == "2"
    (slow,) = scraped.wait_for("topk(1, poseidon_step_own_seconds) > 0.05")
    assert slow["metric"]["worker"] == "1"
    metadata = f"http://{scraped.address}/api/v1/metadata"
    with urllib.request.urlopen(metadata, timeout=20) as answer:
        kinds = {name: kind[0]["type"] for name, kind in json.load(answer)["data"].items()}
    assert {kinds[name] for name in kinds if name.endswith("_total")} <= {"counter"}
    assert kinds["poseidon_step_seconds"] == "gauge"


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


QUERIES = [
    (panel["title"], target["expr"])
    for panel in dashboard()["panels"]
    for target in panel["targets"]
]


@pytest.mark.parametrize("title, expression", QUERIES)
def test_every_query_of_the_dashboard_finds_something(
    scraped: Prometheus, title: str, expression: str
) -> None:
    assert scraped.wait_for(expression.replace("$job", "training"))


def test_the_dashboard_is_laid_out_as_grafana_wants_it() -> None:
    """Panels have numbers of their own and lie side by side in 24 columns."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
        assert re.fullmatch("timeseries|stat", panel["type"])
    assert [v["name"] for v in dashboard()["templating"]["list"]] == ["datasource", "job"]
