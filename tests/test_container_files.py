"""Container files and Kubernetes objects, checked by the schemas and parsers of their makers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import dask
import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[1]
DEPLOYMENTS = ROOT / "deployments"
KUBERNETES = "1.33"
SITE = {
    "POSTGRES_PASSWORD": "letters1",
    "MAMMOSIFT_AUTH": "reader:letters2",
    "FILMS": "/films",
    "CURATED": "/curated",
}


def validate(thing: dict[str, Any]) -> None:
    kubernetes_validate.validate(thing, KUBERNETES, strict=True)


@pytest.fixture
def dockerfile(tmp_path: Path) -> list[dict[str, str]]:
    parser = DockerfileParser(path=str(tmp_path))
    parser.content = (DEPLOYMENTS / "Dockerfile").read_text()
    structure: list[dict[str, str]] = parser.structure
    return structure


def test_what_the_images_copy_is_there_and_gets_past_the_ignore_file(
    dockerfile: list[dict[str, str]],
) -> None:
    let_in = (ROOT / ".dockerignore").read_text().split()
    for step in dockerfile:
        if step["instruction"] == "COPY" and "--from" not in step["value"]:
            for source in step["value"].split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in let_in, source


def test_the_images_hold_all_packages_of_the_wheel(dockerfile: list[dict[str, str]]) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = {
        source
        for step in dockerfile
        if step["instruction"] == "COPY"
        for source in step["value"].split()[:-1]
    }
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied
    installed = [step["value"] for step in dockerfile if "pip install" in step["value"]]
    (extras,) = [v.split(".whl)[")[1].split("]")[0].split(",") for v in installed]
    assert set(extras) <= project["project"]["optional-dependencies"].keys()


def test_the_images_start_commands_that_exist_and_not_as_root(
    dockerfile: list[dict[str, str]],
) -> None:
    starts = [json.loads(step["value"]) for step in dockerfile if step["instruction"] == "CMD"]
    assert [start[:2] for start in starts] == [["dask", "worker"], ["prefect", "worker"]]
    users = [step["value"] for step in dockerfile if step["instruction"] == "USER"]
    assert users == ["10001"]
    scripts = Path(sys.executable).parent
    for start in starts:
        assert (scripts / start[0]).exists()


@pytest.mark.skipif(
    shutil.which("docker-compose") is None,
    reason="docker-compose is not installed (Debian: docker-compose)",
)
def test_compose_reads_its_file_and_publishes_the_server_on_loopback_alone() -> None:
    command = ["docker-compose", "--file", str(DEPLOYMENTS / "compose.yaml"), "config"]
    done = subprocess.run(command, env=os.environ | SITE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    published = {name: s["ports"] for name, s in services.items() if "ports" in s}
    assert published == {"server": ["127.0.0.1:4200:4200/tcp"]}
    (database,) = [
        value
        for name, value in services["server"]["environment"].items()
        if name == "PREFECT_SERVER_DATABASE_CONNECTION_URL"
    ]
    assert database == "postgresql+asyncpg://prefect:letters1@database:5432/prefect"
    for name, secret in (("POSTGRES_PASSWORD", "letters"), ("MAMMOSIFT_AUTH", "user:password")):
        without = {k: v for k, v in SITE.items() if k != name}
        told = subprocess.run(command, env=os.environ | without, capture_output=True, text=True)
        assert told.returncode != 0
        assert secret in told.stderr, "a missing secret is asked for, not made up"


def test_the_kubernetes_objects_are_valid() -> None:
    things = list(yaml.safe_load_all((DEPLOYMENTS / "kubernetes/objects.yaml").read_text()))
    for thing in things:
        validate(thing)
    assert {thing["kind"] for thing in things} >= {"Deployment", "Role", "NetworkPolicy"}
    assert "Secret" not in {thing["kind"] for thing in things}


def test_the_dask_cluster_object_is_one_that_the_operator_takes() -> None:
    from flows.dask_kinds import pods_of_one_run

    text = (DEPLOYMENTS / "kubernetes/dask-cluster.yaml").read_text()
    thing = pods_of_one_run(yaml.safe_load(text), workers=5)
    crd = yaml.safe_load(
        files("dask_kubernetes.operator").joinpath("customresources/daskcluster.yaml").read_text()
    )
    (version,) = crd["spec"]["versions"]
    assert thing["apiVersion"] == f"{crd['spec']['group']}/{version['name']}"
    assert thing["kind"] == crd["spec"]["names"]["kind"]
    metadata = thing["metadata"]
    for part in ("scheduler", "worker"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        validate(pod | {"spec": thing["spec"][part]["spec"]})
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
    validate(service | {"spec": thing["spec"]["scheduler"]["service"]})
    assert thing["spec"]["worker"]["replicas"] == 5


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_job_of_the_kubernetes_work_pool_is_valid(gpus: int) -> None:
    from prefect.utilities.templating import apply_values
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    template = json.loads((DEPLOYMENTS / "kubernetes/work-pool.json").read_text())
    nodes = {"nvidia.com/gpu.present": "true"} if gpus else {}
    known = template["variables"]["properties"]
    values = {name: field["default"] for name, field in known.items() if "default" in field}
    values |= {"gpus": gpus, "node_selector": nodes, "name": "run", "labels": {}}
    configuration = apply_values(template["job_configuration"], values)
    manifest = KubernetesWorkerJobConfiguration(**configuration).job_manifest
    assert manifest["metadata"].pop("generateName") == "run-"
    manifest["metadata"]["name"] = "run-x"  # the schema knows no generated ones
    validate(manifest)
    pod = manifest["spec"]["template"]["spec"]
    assert pod.get("nodeSelector", {}) == nodes
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"/data/films", "/data/curated", "/dev/shm"}


def test_the_example_of_dask_configuration_has_no_setting_that_its_packages_do_not_know() -> None:
    import dask_jobqueue  # noqa: F401
    import dask_kubernetes  # noqa: F401

    given = yaml.safe_load((DEPLOYMENTS / "dask.yaml").read_text())
    for kind in ("slurm", "pbs"):
        assert given["jobqueue"][kind].keys() <= dask.config.get(f"jobqueue.{kind}").keys()
    assert given["kubernetes"].keys() <= dask.config.get("kubernetes").keys()
    assert (ROOT / given["kubernetes"]["custom-cluster-spec"]).is_file()
