"""A Slurm of a few nodes on this machine: munge's daemon, Slurm's, and one for each node.

The nodes' names are those of no hosts, and a node has one CPU. Nothing outside of its folder is
read or written, and all daemons are children of this process. Needs Debian's slurm-wlm and munge.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from pathlib import Path

from poseidon_tf.transport.address import Address
from tests.support.ports import free_addresses

_START_S, _LOOK_S = 60.0, 0.2
_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
ReturnToService=2
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
{nodes}
PartitionName=usual Nodes=ALL Default=YES State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL State=UP PriorityTier=2 PreemptMode=OFF
"""


_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1"


class SlurmCluster:
    """A context manager. `environ` is what Slurm's commands need to find it.

    Args:
      folder: for its files.
      num_nodes: they are called n1, n2, ...
    """

    def __init__(self, folder: Path, *, num_nodes: int = 2) -> None:
        self._folder = folder
        self._nodes = [f"n{number}" for number in range(1, num_nodes + 1)]
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environ = {"SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> SlurmCluster:
        folder, key = self._folder, self._folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        ports = [Address.parse(address).port for address in free_addresses(1 + len(self._nodes))]
        host = socket.gethostname().partition(".")[0]
        nodes = "\n".join(
            _NODE.format(name=name, host=host, port=port)
            for name, port in zip(self._nodes, ports[1:], strict=True)
        )
        text = _CONF.format(folder=folder, host=host, ports=ports, nodes=nodes)
        (folder / "slurm.conf").write_text(text)
        try:
            self._start(
                *f"munged --foreground --force --key-file={key} --socket={folder}/munge.socket "
                f"--pid-file={folder}/munge.pid --log-file={folder}/munge.log "
                f"--seed-file={folder}/munge.seed --num-threads=2".split()
            )
            self._wait(["munge", "-n", f"--socket={folder}/munge.socket"], "MUNGE:")
            self._start("slurmctld", "-D")
            for node in self._nodes:
                self._start("slurmd", "-D", "-N", node)
            self._wait(["sinfo", "--noheader", "--format=%T", "--partition=usual"], "idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, program: str, *args: str) -> None:
        with (self._folder / f"log-{len(self._daemons)}.txt").open("wb") as log:
            self._daemons.append(
                subprocess.Popen(
                    [program, *args],
                    env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin", **self.environ},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def _wait(self, command: list[str], expected: str) -> None:
        """Until `command` prints only lines that begin with `expected`."""
        deadline_s = time.monotonic() + _START_S
        while True:
            asked = subprocess.run(
                command,
                env={**os.environ, **self.environ},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_START_S,
            )
            lines = asked.stdout.split()
            if lines and all(line.startswith(expected) for line in lines):
                return
            if time.monotonic() > deadline_s:
                logs = [path.read_text()[-2000:] for path in self._folder.glob("log-*.txt")]
                raise AssertionError("\n---\n".join([asked.stdout + asked.stderr, *logs]))
            time.sleep(_LOOK_S)  # Nothing tells when a daemon is ready.

    def state(self, job: str) -> str:
        """Of a job, such as RUNNING, and how often it has been started again."""
        words = dict(
            word.split("=", 1)
            for word in self._scontrol("--oneliner", "show", "job", job).split()
            if "=" in word
        )
        return f"{words['JobState']} {words['Restarts']}"

    def start_soon(self, job: str) -> None:
        """Do not leave a job two minutes in the queue that has been put back into it.

        Not in the second in which it has ended either: a node takes it for the run that has ended
        then, "Job credential revoked".
        """
        self._scontrol("update", f"JobId={job}", "StartTime=now+5seconds")

    def _scontrol(self, *args: str) -> str:
        return subprocess.run(
            ["scontrol", *args],
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
