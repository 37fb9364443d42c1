"""The public strategy: finds the cluster, joins it, and hands TensorFlow a strategy over it."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import types
from collections.abc import Iterator
from typing import Any, final

import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.keras_hooks import registry
from poseidon_tf.launch.cluster_env import current_environ, drop_empty_config
from poseidon_tf.launch.found import find_cluster
from poseidon_tf.launch.join import join
from poseidon_tf.launch.restarts import is_elastic
from poseidon_tf.launch.server_main import ServerProcess
from poseidon_tf.planner import ClusterSpec, Plan
from poseidon_tf.session.probe import Probe
from poseidon_tf.strategy import random_seeds, tf_internals
from poseidon_tf.strategy.arithmetic import arithmetic_facts
from poseidon_tf.strategy.data.seeds import seed_difference
from poseidon_tf.strategy.multiplication import flops_per_s
from poseidon_tf.strategy.options import Options, takes
from poseidon_tf.strategy.runtime import Runtime
from poseidon_tf.strategy.strategy import (
    ClusterStrategy,
    checked_devices,
    local_devices,
    runtime_of,
)

_log = logging.getLogger("poseidon_tf")


@final
class PoseidonStrategy(ClusterStrategy):
    """Data-parallel training with wait-free backpropagation and hybrid communication.

    The cluster is described by the environment: by TF_CONFIG, as for TensorFlow's own strategies,
    or by what the scheduler or launcher sets that has started this process. Where nothing shows
    that there are others, this process trains alone, with no server and no port, and gets the
    results of `tf.distribute.OneDeviceStrategy`. A process whose task is "ps" serves until the
    job ends and exits with its code; the call does not return.

    It may be used in a `with` statement, at whose end this process leaves the cluster; an
    exception in it ends the job for all, who are told of it.

    Args:
      schemes: overrides for the planner, from a pattern of Keras paths (`fnmatch`; `*` crosses
        `/`) to "ps", "sfb" or, for a sparse gradient, "rows", such as ``{"*/fc?/kernel": "ps"}``.
        The last match wins.
      kv_pair_bytes: the largest piece of a gradient, in bytes, that a server sums as one;
        4 KiB to 64 MiB.
      coalesce_bytes: neighbours that are small beside the rest of the model are exchanged together
        until they have this many bytes at most; 0 exchanges each on its own.
      wire_dtype: what float32 gradients are rounded to before they leave their device, which halves
        what is sent: "bfloat16" or "float16", or a mapping like `schemes`, with "float32" for those
        that stay. Factors and rows are rounded too; sums are made in float32, and rounded once on
        the way back. All workers still hold the same bits. If None, nothing is rounded.
      plan: how every variable travels, in place of what the planner would choose: a file that
        `poseidon-tf plan --json` or ``strategy.plan.to_json()`` has written, or a `Plan`. All
        workers need the same. Schemes, rounding and `kv_pair_bytes` are those of the plan.
      plan_by: what a plan makes small: "bytes", the paper's rule, or "time", the step as it is
        expected of rank 0's trace and of what all workers measure as the job starts (see `probe`).
        Only schemes differ. Between two epochs of `fit` links are measured again, and where they or
        steps have changed another plan may take its place. All workers need the same.
      step_seconds: for plan_by="time": what a step of one worker alone takes, as it was measured.
        If None, it is worked out of the step's operations and the speed at which devices multiply,
        which is less than it takes. Rank 0's counts.
      probe: measure, as the job starts, what links and processors can do, in about a second;
        ``statistics().probe`` has the figures. All workers need the same.
      devices: where this worker's replicas run, one each, such as ``["GPU:0", "GPU:1"]``; by
        default on all its accelerators, else on the CPU. All workers need as many. Their
        gradients are summed on the host, and their factors joined, before anything is sent.
      rows_per_step: rows of one worker's batch, for custom loops in which no dataset tells; the
        planner's K is made of it.
      clip: what the optimizer's `clipnorm`, `clipvalue` and `global_clipnorm` apply to: "sum",
        the gradient summed over all workers, which gives what one process would have, or
        "local", each worker's share before it is sent, as under TensorFlow's own strategies.
      write_on: where callbacks of Keras that write files or send events do so, and where a
        script's own `save`, `save_weights`, `export` and `tf.train.Checkpoint` write: "chief",
        rank 0 only, or "all" workers.
      defer_updates: whether `fit` updates a variable at the beginning of the next step, before that
        reads it, so that sums may still come while the layers below are computed. The values are
        the same bits, and whoever looks at a variable between two steps sees them. "auto" does so
        wherever it can, for models that train 1 MiB or more; `statistics().updates` and the line
        below the plan say why not. True makes that an error, False never does it.
      on_resize: what a `fit` does that goes on from a backup of another number of workers:
        "keep_global_batch", the batch of all workers stays, and so does the learning rate, or
        "keep_worker_batch", from the next epoch on each worker has the batch that it had, and the
        learning rate is scaled by the number of workers.
      loss_weighting: what a step on unequal shares of a batch gives, such as a partial last one:
        "replica", the mean of the replicas' means, an empty share counting zero, as under
        TensorFlow's own strategies, or "sample", what one process gives on the joined batch.
      drift_check_steps: after how many steps `fit` and `train_on_batch` compare a digest of the
        trainable and optimizer variables of all workers and replicas; a difference ends the job.
        One in what layers assign by themselves is a warning, once. 0 never compares. A custom
        loop calls `check_drift`.
      check_numerics: whether NaN or infinity in a worker's own gradient ends the job before it is
        sent. Gradients of a loss that a `LossScaleOptimizer` scales are looked at once its scale
        has come down to 1: above it they overflow by right.
      show_plan: where rank 0 shows each new plan: "print", on standard output, "log", to the logger
        `poseidon_tf` at level INFO, or "none". `strategy.plan` is there in any case.
      show_summary: where rank 0 shows, when `fit` has ended, how long its steps took, how much of
        the communication was hidden and what was sent; as for `show_plan`. A `fit` with
        ``verbose=0`` prints none. `strategy.statistics()` is there in any case.
      cluster_resolver: what describes the cluster in place of the environment: any resolver of
        `tf.distribute.cluster_resolver`.
      alone: train without others on purpose, whatever the environment says of them.
      ports: first and last port for what chooses its own: the server that this worker starts on its
        own host, the worker itself where nothing gives it an address, rank 0 where its port follows
        from the name of the job, and one more of each for the TCP connections of tensors. If None,
        the system chooses, or for rank 0 one of 20000 to 29999.
      interface: where this worker listens if nothing gives it an address: the name of an interface,
        such as "eth0", or a host or address of this machine. If None, what POSEIDON_INTERFACE says,
        or else the interface that leads to rank 0.
      protocol: what tensors travel by: "grpc", messages of gRPC; "grpc+tcp", TCP connections beside
        gRPC's streams, which take less CPU and copy nothing, or an error where there is none;
        "auto", the latter where both ends have it and there is no TLS. If None, what
        POSEIDON_PROTOCOL says, or else "auto".
      deadlines: how long anything may take, in seconds; see `Deadlines`.
      timeline_dir: where each process writes its Chrome trace when it ends; None for none.
      metrics_port: where rank 0 serves the state of the whole job to Prometheus, on the host on
        which it listens; None for nowhere. Needs the package `prometheus_client`. A worker that
        trains alone serves nothing.
      security: TLS and the job's token; what it leaves open, and all of it if None, is taken from
        the environment. See `Security`. Servers of their own read the environment only.

    Raises:
      ConfigError: what describes the cluster or an argument is wrong, this process is one of
        several and cannot know where the others are, a port is in use, it has constructed
        a strategy before and not called its `shutdown`, or another member has another token or a
        certificate that proves nothing.
      StartTimeout: not every member came before `deadlines.start_s`; the message names them.

    Source: Zhang et al., "Poseidon: An Efficient Communication Architecture for Distributed Deep
    Learning on GPU Clusters", USENIX ATC 2017.
    """

    @takes(Options)
    def __init__(self, **given: Any) -> None:
        options = Options(**given)
        drop_empty_config()
        config, settings = find_cluster(
            deadlines=options.deadlines,
            resolver=options.cluster_resolver,
            alone=options.alone,
            ports=options.ports,
            interface=options.interface,
            protocol=options.protocol,
            security=options.security,
        )
        if config.role == "server":
            sys.exit(
                ServerProcess(
                    config,
                    index=config.rank,
                    address=config.address,
                    start_timeout_s=options.deadlines.start_s,
                    settings=settings,
                ).serve()
            )
        self._show_plan = options.show_plan
        asked = options.devices
        own_devices = local_devices() if asked is None else checked_devices(asked)
        self._membership = None
        if not config.is_single:
            if config.rank == 0:
                _log.info(
                    "%d workers from %s, coordinator %s",
                    config.num_workers,
                    config.source,
                    config.coordinator_address,
                )
            self._membership = join(
                config,
                arithmetic=arithmetic_facts(own_devices[0], current_environ()),
                deadlines=options.deadlines,
                ports=options.ports,
                timeline_dir=options.timeline_dir,
                metrics_port=options.metrics_port,
                num_replicas=len(own_devices),
                seed=tf_internals.global_seed(),
                measures=f"plan_by={options.plan_by!r}, probe" * options.measures,
                settings=settings,
            )
            self._membership.leave_with_main_thread()
        self._cluster_resolver = self._resolver(options)
        with self._left_if_this_fails():
            if self._membership is not None:
                self._membership.notice_sigterm()
                seeds = [m.info["seed"] for m in self._membership.view.workers]
                if difference := seed_difference(seeds):
                    session = self._membership.worker.session
                    raise session.fail_together(ConfigError(difference))
                # Every worker shuffles the whole dataset before it takes its shard: with other
                # seeds some samples would be seen twice and others never.
                random_seeds.begin(self._membership.view.data_seed)
            runtime = self._runtime_among_others(options, own_devices[0])
            super().__init__(runtime, devices=own_devices)
            registry.install()

    @property
    def cluster_resolver(self) -> tf.distribute.cluster_resolver.ClusterResolver:
        """The cluster and this process's task in it, as they were when it joined.

        It is the one that was given, or says what TF_CONFIG did. Without them it lists all workers,
        with the addresses that they have told each other; where there is none but this process the
        cluster is empty, and `task_type` and `task_id` are None, as under TensorFlow's own
        multi-worker strategy.
        """
        return self._cluster_resolver

    def _resolver(self, options: Options) -> tf.distribute.cluster_resolver.ClusterResolver:
        if options.cluster_resolver is not None:
            return options.cluster_resolver
        if self._membership is not None and not current_environ().get("TF_CONFIG"):
            view = self._membership.view
            return tf.distribute.cluster_resolver.SimpleClusterResolver(
                tf.train.ClusterSpec({"worker": view.worker_addresses}),
                task_type="worker",
                task_id=self._membership.config.rank,
                rpc_layer="grpc",
            )
        if options.alone:
            return tf.distribute.cluster_resolver.SimpleClusterResolver(tf.train.ClusterSpec({}))
        return _as_tensorflow_reads_it()

    def _runtime_among_others(self, options: Options, device: str) -> Runtime | None:
        if self._membership is None:
            return None
        measured, probe = None, Probe(self._membership.worker)
        if options.measures:
            measured = probe.measure(flops_per_s=functools.partial(flops_per_s, device))
        config = self._membership.config
        # Who is left alone in a job that may grow again has to keep its place for the others.
        if config.num_workers == 1 and not is_elastic(current_environ()):
            return None
        return Runtime(
            self._membership.worker,
            ClusterSpec(
                num_workers=config.num_workers,
                num_servers=config.num_servers,
                co_located=config.co_located,
            ),
            options,
            arithmetic=[m.info["arithmetic"] for m in self._membership.view.workers],
            measured=measured,
            probe=probe,
            announce=self._announce,
            show=self._show,
            reporter=self._membership.reporter,
            status=self._membership.status,
        )

    @contextlib.contextmanager
    def _left_if_this_fails(self) -> Iterator[None]:
        """Nobody gets hold of a strategy whose construction failed, to call its `shutdown`."""
        try:
            yield
        except BaseException as failure:
            if self._membership is not None:
                random_seeds.end()
                self._membership.leave_now(f"{type(failure).__name__}: {failure}")
            raise

    def __enter__(self) -> PoseidonStrategy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        # The end of a script by `sys.exit` is in order, as where there is no `with` statement.
        if self._membership is not None and error and not isinstance(error, SystemExit):
            self._membership.fail_by(error, trace)
        self.shutdown()

    def shutdown(self) -> None:
        """Leave the cluster now; otherwise it happens when the main thread ends.

        It waits for the others to leave too, for `deadlines.leave_s` at most, if this is rank 0.
        Then this process may construct another strategy, for the next run of the job. Calling it
        again does nothing.
        """
        if self._membership is not None:
            random_seeds.end()
            self._membership.leave_now()

    def _announce(self, plan: Plan) -> None:
        if self.rank == 0 and self._membership is not None:
            about = self._membership.worker.session.recorder.about
            about.setdefault("plans", []).append(plan.table())
        runtime = runtime_of(self)
        self._show(plan.table() + (f"\n{runtime.updates.line}" if runtime else ""))

    def _show(self, text: str) -> None:
        """Show a plan, or what has changed since."""
        if self.rank != 0:
            return
        if self._show_plan == "print":
            print(text, flush=True)
        elif self._show_plan == "log":
            _log.info("plan:\n%s", text)


def _as_tensorflow_reads_it() -> tf.distribute.cluster_resolver.ClusterResolver:
    """What TF_CONFIG says now; a script may take it away or change it later."""
    of_environment = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        of_environment.cluster_spec(),
        task_type=of_environment.task_type,
        task_id=of_environment.task_id,
        environment=of_environment.environment,
        rpc_layer=of_environment.rpc_layer,
    )
