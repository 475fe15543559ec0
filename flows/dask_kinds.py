"""Dask clusters that a run starts for itself: on this machine, as batch jobs, or as pods.

What depends on the site (queue, account, memory a job, image) is not asked in the form of a run. It
stands in Dask's own configuration, sections ``jobqueue.slurm``, ``jobqueue.pbs`` and
``kubernetes``; deployments/dask.yaml is one to start from.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.errors import InputError
from tasks.run_settings import DaskCluster

WORKER_MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(2**29), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
"""Workers keep freed memory. Dask's own default (64 KiB) gives every freed block back at once:
training took twice as long, for the page faults."""
JOB_CORES, JOB_MEMORY = 1, "4GB"
"""Of a batch job, where Dask's configuration says nothing."""
ASK_AGAIN_S = 5.0
CERTIFICATES = Path("~/.cache/mammosift/certificates")
"""Where batch jobs find the certificate of this run's scheduler: the home folder is shared."""


@contextmanager
def started(kind: DaskCluster, workers: int | None) -> Iterator[Any]:
    """Start a cluster of single-threaded worker processes, and end it with the block.

    Parameters
    ----------
    kind : str
        local, slurm, pbs or kubernetes.
    workers : int or None
        How many processes to ask for; None (local alone) is one a core. Of a queue they come when
        they come: the run begins with the first one.

    Yields
    ------
    distributed.deploy.Cluster

    Raises
    ------
    InputError
        The package or the programs of this kind are not here, or its configuration is not whole.
    """
    if kind == "local":
        with _local(workers) as cluster:
            yield cluster
        return
    if workers is None:
        raise ValueError(f"kind={kind!r} needs a number of workers")
    try:
        with _pods(workers) if kind == "kubernetes" else _jobs(kind, workers) as cluster:
            yield cluster
    except ImportError as e:
        extra = "kubernetes" if kind == "kubernetes" else "slurm"
        raise InputError(
            f"dask_cluster={kind!r} needs another package ({e.name}); install it with: "
            f"pip install 'mammosift[{extra}]'"
        ) from e


@contextmanager
def _local(workers: int | None) -> Iterator[Any]:
    import dask
    from dask.system import CPU_COUNT
    from distributed import LocalCluster
    from distributed.system import MEMORY_LIMIT

    spawn = "distributed.nanny.pre-spawn-environ"
    config = {"temporary-directory": tempfile.gettempdir()}
    config |= {f"{spawn}.{name}": value for name, value in WORKER_MALLOC.items()}
    with (
        dask.config.set(config),
        LocalCluster(
            n_workers=workers or CPU_COUNT,
            threads_per_worker=1,
            memory_limit=int(
                0.9 * MEMORY_LIMIT
            ),  # training and clustering run alone, in one worker
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=40,
        ) as cluster,
    ):
        yield cluster


@contextmanager
def _jobs(kind: str, workers: int) -> Iterator[Any]:
    """Cluster of batch jobs, each a few processes of one thread, encrypted both ways."""
    import dask
    from dask_jobqueue.pbs import PBSCluster
    from dask_jobqueue.slurm import SLURMCluster

    cluster_of = {"slurm": SLURMCluster, "pbs": PBSCluster}
    site = dask.config.get(f"jobqueue.{kind}")
    jobs = job_defaults(kind, site)
    with (
        dask.config.set({"jobqueue": jobs}),
        _certificate(site["shared-temp-directory"]) as tls,
        cluster_of[kind](
            processes=jobs[kind]["processes"],
            security=tls,
            scheduler_options={"dashboard_address": "127.0.0.1:0"} | site["scheduler-options"],
        ) as cluster,
    ):
        try:
            cluster.sync(_first_asked, cluster, workers)
        except (OSError, RuntimeError) as e:
            raise InputError(
                f"dask_cluster={kind!r} cannot be started here ({str(e).strip()[:500]}). Is this a "
                "machine from which jobs are submitted, and is jobqueue in Dask's configuration "
                "right (deployments/README.md)?"
            ) from e
        with _replaced(cluster, workers):
            yield cluster


async def _first_asked(cluster: Any, workers: int) -> None:
    """Ask for the jobs, and raise what the batch system answers (``scale`` alone only logs it)."""
    from distributed.core import Status

    cluster.scale(n=workers)
    try:
        await cluster._correct_state()
    except (OSError, RuntimeError):
        for job in cluster._created:  # a job never begun would keep the cluster from closing
            if job.status == Status.created:
                job.status = Status.failed
        raise


@contextmanager
def _replaced(cluster: Any, workers: int) -> Iterator[None]:
    """Ask again for jobs that ended (cancelled, over their time) while the block runs."""
    from tornado.ioloop import PeriodicCallback

    ask = PeriodicCallback(lambda: cluster.scale(n=workers), 1000 * ASK_AGAIN_S)
    cluster.loop.add_callback(ask.start)
    try:
        yield
    finally:
        cluster.loop.add_callback(ask.stop)


@contextmanager
def _certificate(shared: str | None) -> Iterator[Any]:
    """Certificate of one run, in a folder that its jobs can read and no other user.

    Whoever reaches a Dask scheduler can run code; with this only those who hold the key.
    """
    from distributed.security import Security

    parent = Path(os.path.expandvars(shared)).expanduser() if shared else CERTIFICATES.expanduser()
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Security.temporary().get_tls_config_for_role("worker")
    with tempfile.TemporaryDirectory(prefix="run-", dir=parent) as folder:
        files = {}
        for name in ("ca_file", "cert", "key"):
            files[name] = Path(folder) / f"{name}.pem"
            files[name].touch(mode=0o600)
            files[name].write_text(made[name])
        roles = {
            f"tls_{role}_{name}": str(files[name])
            for role in ("scheduler", "worker", "client")
            for name in ("cert", "key")
        }
        yield Security(tls_ca_file=str(files["ca_file"]), require_encryption=True, **roles)


def job_defaults(kind: str, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What jobs are started with: the site's configuration, and what it does not say.

    Parameters
    ----------
    kind : str
        slurm or pbs.
    given : mapping
        Section ``jobqueue.<kind>`` of Dask's configuration.

    Returns
    -------
    dict
        Section ``jobqueue``; a process has one thread, and keeps its freed memory.
    """
    cores = given["cores"] or JOB_CORES
    here = {
        **given,
        "cores": cores,
        "processes": given["processes"] or cores,
        "memory": given["memory"] or JOB_MEMORY,
        "local-directory": given["local-directory"] or "${TMPDIR:-/tmp}",
        "job-script-prologue": [
            *(f"export {name}={value}" for name, value in WORKER_MALLOC.items()),
            *given["job-script-prologue"],
        ],
    }
    return {kind: here}


@contextmanager
def _pods(workers: int) -> Iterator[Any]:
    """Cluster of pods that the Dask operator starts, of the object that the configuration names."""
    import dask
    from dask_kubernetes.operator import KubeCluster, make_cluster_spec
    from dask_kubernetes.operator.kubecluster.kubecluster import CreateMode

    spec = dask.config.get("kubernetes.custom-cluster-spec")
    image = dask.config.get("kubernetes.image")
    if spec is None and str(image).startswith("ghcr.io/dask/"):
        raise InputError(
            "dask_cluster='kubernetes' needs an image with mammosift inside: name one in Dask's "
            "configuration (kubernetes.image), or the whole object "
            "(kubernetes.custom-cluster-spec: deployments/kubernetes/dask-cluster.yaml)."
        )
    if isinstance(spec, str):
        import yaml

        spec = yaml.safe_load(Path(spec).read_text("utf-8"))
    if spec is None:
        spec = make_cluster_spec(name="mammosift", image=image)
    with KubeCluster(
        custom_cluster_spec=pods_of_one_run(spec, workers), create_mode=CreateMode.CREATE_ONLY
    ) as cluster:
        yield cluster


def pods_of_one_run(spec: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """Object of a Dask cluster under a name that no other run has.

    Parameters
    ----------
    spec : mapping
        A ``DaskCluster`` object of the Dask operator.
    workers : int
        Pods of workers.

    Returns
    -------
    dict
    """
    name = f"{spec['metadata']['name']}-{secrets.token_hex(4)}"
    scheduler, worker = spec["spec"]["scheduler"], spec["spec"]["worker"]
    service = scheduler["service"]
    selector = service["selector"] | {"dask.org/cluster-name": name}
    return {
        **spec,
        "metadata": {**spec["metadata"], "name": name},
        "spec": {
            **spec["spec"],
            "scheduler": {**scheduler, "service": {**service, "selector": selector}},
            "worker": {**worker, "replicas": workers},
        },
    }
