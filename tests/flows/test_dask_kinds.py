from __future__ import annotations

import dask
import pytest
from pydantic import ValidationError

from flows.dask_cluster import dask_client
from flows.dask_kinds import WORKER_MALLOC, job_defaults, pods_of_one_run
from storage.errors import InputError
from tasks.cluster_settings import ClusterFileSettings
from tasks.settings import CurationSettings

SITE = {
    "cores": None,
    "processes": None,
    "memory": None,
    "local-directory": None,
    "job-script-prologue": ["module load python"],
    "queue": "night",
}


def test_a_site_that_says_nothing_gets_one_process_of_one_thread_a_job() -> None:
    here = job_defaults("slurm", SITE)["slurm"]
    assert (here["cores"], here["processes"], here["memory"]) == (1, 1, "4GB")
    assert here["local-directory"] == "${TMPDIR:-/tmp}"
    assert here["queue"] == "night"


def test_processes_have_one_thread_and_keep_their_freed_memory() -> None:
    here = job_defaults("pbs", SITE | {"cores": 16})["pbs"]
    assert here["processes"] == 16
    exports = [f"export {name}={value}" for name, value in WORKER_MALLOC.items()]
    assert here["job-script-prologue"] == [*exports, "module load python"]


def test_a_job_of_pbs_asks_for_what_the_site_says() -> None:
    import dask_jobqueue

    site = dask.config.get("jobqueue.pbs") | {"queue": "night", "cores": 4, "memory": "16GB"}
    with dask.config.set({"jobqueue": job_defaults("pbs", site)}):
        script = dask_jobqueue.pbs.PBSJob("tls://10.0.0.5:8786", name="w", processes=4).job_script()
    assert "#PBS -q night" in script
    assert "#PBS -l select=1:ncpus=4:mem=15GB" in script
    assert "--nthreads 1 " in script
    assert "--nworkers 4 " in script
    assert "export MALLOC_TRIM_THRESHOLD_=536870912" in script


def test_without_the_programs_of_the_batch_system_the_run_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    local = {"jobqueue.pbs.scheduler-options": {"host": "127.0.0.1"}}
    with (
        dask.config.set(local),
        pytest.raises(InputError, match=r"'pbs' cannot be started here .*qsub"),
        dask_client(None, 1, "pbs"),
    ):
        raise AssertionError("nothing can be started")


def test_pods_need_an_image_with_mammosift_inside() -> None:
    with (
        pytest.raises(InputError, match=r"kubernetes\.image"),
        dask_client(None, 2, "kubernetes"),
    ):
        raise AssertionError("nothing can be started")


def test_pods_of_two_runs_have_two_names() -> None:
    from dask_kubernetes.operator import make_cluster_spec

    spec = make_cluster_spec(name="mammosift", image="mammosift:1")
    one, other = pods_of_one_run(spec, 3), pods_of_one_run(spec, 3)
    assert one["metadata"]["name"] != other["metadata"]["name"]
    assert one["spec"]["worker"]["replicas"] == 3
    selector = one["spec"]["scheduler"]["service"]["selector"]
    assert selector["dask.org/cluster-name"] == one["metadata"]["name"]


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ({"dask_cluster": "slurm"}, "needs workers"),
        (
            {"dask_cluster": "pbs", "workers": 2, "dask_address": "tcp://10.0.0.5:8786"},
            "give one of them",
        ),
        ({"dask_cluster": "cloud"}, "'local', 'slurm', 'pbs' or 'kubernetes'"),
    ],
)
def test_settings_of_the_dask_side_that_do_not_go_together(
    side: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        CurationSettings.model_validate({"source": "/films", "out": "/out", **side})
    with pytest.raises(ValidationError, match=message):
        ClusterFileSettings.model_validate({"embeddings": "/e.npy", "out": "/o.parquet", **side})
