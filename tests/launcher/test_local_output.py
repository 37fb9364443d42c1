"""A local job: what its members are told, and what is shown of them."""

import io
import json
import os
import signal
from pathlib import Path

import pytest

from poseidon_tf.launcher.local import run_local
from poseidon_tf.launcher.output import Lines
from poseidon_tf.launcher.supervisor import Patience
from tests.launcher.local_jobs import Run

pytestmark = pytest.mark.processes

RANK = "import os, json; rank = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"


# --- What the members are told.


def test_every_member_has_its_own_task_in_one_cluster(run: Run) -> None:
    show = "import os; print(os.environ['TF_CONFIG'])"
    ended = run(show, workers=2, servers=2, server=show)
    assert (ended.code, ended.err) == (0, [])
    configs = {line[1 : line.index("]")]: json.loads(line.split("] ")[1]) for line in ended.out}
    assert {label: config["task"] for label, config in configs.items()} == {
        "worker 0": {"type": "worker", "index": 0},
        "worker 1": {"type": "worker", "index": 1},
        "server 0": {"type": "ps", "index": 0},
        "server 1": {"type": "ps", "index": 1},
    }
    clusters = [config["cluster"] for config in configs.values()]
    assert all(cluster == clusters[0] for cluster in clusters)
    addresses = clusters[0]["worker"] + clusters[0]["ps"]
    assert len(set(addresses)) == 4
    assert all(address.startswith("127.0.0.1:") for address in addresses)


@pytest.mark.parametrize("servers", [None, 0])
def test_without_servers_the_cluster_names_none(run: Run, servers: int | None) -> None:
    ended = run("import os; print(os.environ['TF_CONFIG'])", workers=2, servers=servers)
    assert all('"ps"' not in line for line in ended.out) and len(ended.out) == 2


def test_arguments_reach_the_script_as_they_are(run: Run) -> None:
    ended = run("import sys; print(sys.argv[1:])", "--workers", "9", "--", "a b", "--help")
    assert ended.out == ["[worker 0] ['--workers', '9', '--', 'a b', '--help']"]


THREADS = (
    "import os; print(*[os.environ.get(f'TF_NUM_{x}_THREADS') for x in ('INTRAOP', 'INTEROP')])"
)


def test_workers_share_the_processors(run: Run) -> None:
    num_cpus = len(os.sched_getaffinity(0))
    bare = {key: value for key, value in os.environ.items() if not key.startswith("TF_NUM_")}
    intra, inter = run(THREADS, workers=2, environ=bare).out[0].split()[2:]
    assert (int(intra), int(inter)) == (max(1, num_cpus // 2), max(2, num_cpus // 2))
    assert run(THREADS, environ=bare).out == ["[worker 0] None None"]  # Alone: all of them.


def test_a_thread_number_that_the_user_set_stays(run: Run) -> None:
    mine = {**os.environ, "TF_NUM_INTRAOP_THREADS": "7", "TF_NUM_INTEROP_THREADS": "9"}
    assert run(THREADS, workers=2, environ=mine).out[0].endswith("] 7 9")


def test_a_program_runs_without_python(capfd: pytest.CaptureFixture[str]) -> None:
    code = run_local(["sh", "-c", "echo hello"], num_workers=1, environ=os.environ)
    assert code == 0 and capfd.readouterr().out == "[worker 0] hello\n"


TOKEN = "import os; print(os.environ.get('POSEIDON_TOKEN'), os.environ.get('POSEIDON_TOKEN_FILE'))"


def test_members_share_a_token_that_no_other_job_has(run: Run) -> None:
    """A fresh one for every job, the same for all of its members, and not an easy one."""
    bare = {name: value for name, value in os.environ.items() if "POSEIDON" not in name}
    jobs = [run(TOKEN, workers=2, servers=1, server=TOKEN, environ=bare) for _ in range(2)]
    tokens = [{line.split("] ")[1] for line in job.out} for job in jobs]
    assert all(len(of_job) == 1 for of_job in tokens) and tokens[0] != tokens[1]
    assert all(len(token) > 32 for of_job in tokens for token in of_job)


@pytest.mark.parametrize("name", ["POSEIDON_TOKEN", "POSEIDON_TOKEN_FILE"])
def test_a_token_of_the_caller_stays(run: Run, name: str) -> None:
    """Whoever names one, or a file with one, means it."""
    bare = {each: value for each, value in os.environ.items() if "POSEIDON" not in each}
    (line,) = run(TOKEN, environ={**bare, name: "mine"}).out
    expected = {"POSEIDON_TOKEN": "mine None", "POSEIDON_TOKEN_FILE": "None mine"}[name]
    assert line == f"[worker 0] {expected}"


# --- What is shown of them.


def test_lines_carry_their_role_and_stay_on_their_stream(run: Run) -> None:
    ended = run(
        "import sys; print('out'); print('err', file=sys.stderr)",
        workers=2,
        servers=1,
        server="print('up')",
    )
    assert sorted(ended.out) == ["[server 0] up", "[worker 0] out", "[worker 1] out"]
    assert sorted(ended.err) == ["[worker 0] err", "[worker 1] err"]


def test_lines_of_several_workers_are_never_mixed(run: Run) -> None:
    letters = RANK + "for _ in range(500): print('ab'[rank] * 300)"
    lines = run(letters, workers=2).out
    assert sorted(set(lines)) == ["[worker 0] " + "a" * 300, "[worker 1] " + "b" * 300]
    assert len(lines) == 1000


def test_bytes_that_are_no_text_and_a_last_line_without_an_end_are_shown(run: Run) -> None:
    ended = run(r"import os; os.write(1, b'caf\xc3\xa9 \xff\nlast')")
    assert ended.out == ["[worker 0] café �", "[worker 0] last"]


@pytest.mark.parametrize(
    "pieces, lines",
    [
        (["one\ntwo\n"], ["one", "two"]),
        (["o", "ne\nt", "wo"], ["one", "two"]),
        (["a\n\nb\n"], ["a", "", "b"]),
        (["a\r\nb\r", "\nc\n"], ["a", "b", "c"]),
        (["\r10%\r20%", "\r30%\n"], ["10%", "20%", "30%"]),
        (["10%\r", "20%\r", "done\n"], ["10%", "20%", "done"]),
        (["10%\r20%\r"], ["10%", "20%"]),
        (["a\n\r\nb"], ["a", "", "b"]),
        (["x" * 70_000], ["x" * 70_000]),  # Longer than is kept back.
    ],
)
def test_a_line_ends_at_a_newline_or_a_carriage_return(pieces: list[str], lines: list[str]) -> None:
    shown: list[str] = []
    feed = Lines(shown.append)
    for piece in [*pieces, ""]:
        feed.feed(piece.encode())
    assert shown == lines


def test_output_that_nobody_reads_ends_the_job(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("while True: print('x' * 1000)")
    reads, writes = os.pipe()
    os.close(reads)
    out = open(writes, "w", buffering=1)
    err = io.StringIO()
    code = run_local(
        [str(script)],
        num_workers=2,
        environ=os.environ,
        stdout=out,
        stderr=err,
        patience=Patience(after_sigterm_s=0.3),
    )
    assert code == 128 + signal.SIGPIPE
    with pytest.raises(BrokenPipeError):
        out.close()
