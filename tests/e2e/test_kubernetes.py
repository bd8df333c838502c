"""The manifests of deploy/kubernetes fit Kubernetes' schemas, each other, and what our processes do, without Kubernetes."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from api.app import PUBLIC
from perdure import launch, metrics
from perdure.cli import app
from perdure.local import LocalServices
from perdure.settings import fields
from tests.support.processes import PERDURE, ROOT, finished, heard, started, surroundings
from worker.slots import EXIT_SECONDS

FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(FOLDER.rglob("*.yaml"))
SCHEMAS = json.loads((ROOT / "tests" / "fixtures" / "kubernetes" / "v1.37.json").read_text())
Manifest = Mapping[str, Any]


def documents(file: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


ALL = [(file, each) for file in FILES if file.name != "kustomization.yaml" for each in documents(file)]


def the(kind: str, name: str) -> Manifest:
    [found] = [each for _, each in ALL if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pods() -> dict[str, Manifest]:
    """The pods' specs, by the name of what makes them."""
    makers = [each for _, each in ALL if "template" in each.get("spec", {})]
    return {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in makers}


SETTINGS: dict[str, str] = the("ConfigMap", "perdure")["data"]
SECRETS: dict[str, str] = the("Secret", "perdure")["stringData"]
PODS = pods()


def container(pod: Manifest) -> Manifest:
    [one] = pod["containers"]
    return dict(one)


def port_of(name: str, port: str) -> int:
    """The number of a pod's named port."""
    return {each["name"]: int(each["containerPort"]) for each in container(PODS[name])["ports"]}[port]


def found(thing: Any, key: str) -> Iterator[Any]:
    """Every value under `key`, however deep."""
    if isinstance(thing, Mapping):
        for name, value in thing.items():
            if name == key:
                yield value
            yield from found(value, key)
    elif isinstance(thing, list):
        for each in thing:
            yield from found(each, key)


def schema_of(manifest: Manifest) -> dict[str, Any] | None:
    for name, definition in SCHEMAS["$defs"].items():
        asked = definition.get("properties", {})
        if (
            manifest["kind"] in asked.get("kind", {}).get("enum", [])
            and manifest["apiVersion"] in asked["apiVersion"]["enum"]
        ):
            return {"$ref": f"#/$defs/{name}", **SCHEMAS}
    return None


@pytest.mark.parametrize(("file", "manifest"), ALL, ids=lambda value: getattr(value, "name", ""))
def test_a_manifest_fits_kubernetes_own_schema(file: Path, manifest: Manifest) -> None:
    schema = schema_of(manifest)
    if schema is None:  # of an operator: Kubernetes does not know it
        assert manifest["apiVersion"].partition("/")[0] in ("keda.sh", "monitoring.coreos.com"), file
        return
    assert [error.message for error in Draft202012Validator(schema).iter_errors(manifest)] == []


def test_the_schema_refuses_what_kubernetes_does() -> None:
    manifest = json.loads(json.dumps(the("Deployment", "perdure-worker")))
    manifest["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    schema = schema_of(manifest)
    assert schema is not None
    assert "terminationGracePeriod" in str(list(Draft202012Validator(schema).iter_errors(manifest)))


def test_every_file_is_taken_in_somewhere() -> None:
    taken = {
        file.parent / name
        for file in FOLDER.rglob("kustomization.yaml")
        for name in documents(file)[0]["resources"]
    }
    apart = {file for file in FILES if file.name in ("kustomization.yaml", "secret.example.yaml")}
    assert taken == set(FILES) - apart
    offered = re.findall(r"^#   - (\w+)", (FOLDER / "kustomization.yaml").read_text(), re.MULTILINE)
    assert {FOLDER / name / "kustomization.yaml" for name in offered} == set(
        FOLDER.glob("*/kustomization.yaml")
    )


def test_they_are_for_any_namespace() -> None:
    assert [file for file, each in ALL if "namespace" in each["metadata"]] == []


def test_the_settings_are_ours_and_a_process_takes_them(tmp_path: Path) -> None:
    names = {name for name, _, _ in fields()}
    assert set(SETTINGS) <= names
    assert set(SECRETS) <= names
    assert not set(SETTINGS) & set(SECRETS)
    told = finished([PERDURE, "settings", "--json"], cwd=tmp_path, env=surroundings(**SETTINGS, **SECRETS))
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_no_rights_that_it_does_not_need(name: str) -> None:
    pod = PODS[name]
    [user] = re.findall(r"--uid (\d+)", (ROOT / "Dockerfile").read_text())
    context, inner = pod["securityContext"], container(pod)["securityContext"]
    assert (context["runAsNonRoot"], context["runAsUser"]) == (True, int(user))
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inner == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    assert {"cpu", "memory"} == set(container(pod)["resources"]["requests"])
    for source in container(pod)["envFrom"]:
        [reference] = source.values()
        assert reference == {"name": "perdure"}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_runs_a_command_of_ours(name: str) -> None:
    program, *words = container(PODS[name])["command"]
    assert program == "perdure"
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    assert not hasattr(command, "commands")
    assert container(PODS[name])["image"] == "perdure"


def test_ports_are_those_that_are_listened_on() -> None:
    assert port_of("perdure-front-door", "http") == int(SETTINGS["PORT"])
    assert port_of("perdure-front-door", "ops") == int(SETTINGS["OPS__PORT"])
    assert port_of("perdure-worker", "health") == int(SETTINGS["WORKER__HEALTH_PORT"])
    [service] = the("Service", "perdure")["spec"]["ports"]
    assert service["targetPort"] == "http"


@pytest.mark.parametrize("name", ["perdure-front-door", "perdure-worker"])
def test_probes_ask_at_a_port_and_a_path_that_are_there(name: str) -> None:
    one = container(PODS[name])
    paths = {
        each: one[each]["httpGet"]["path"] for each in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert set(paths.values()) <= set(PUBLIC)
    for probe in paths:
        assert port_of(name, one[probe]["httpGet"]["port"])
    defaults = {setting: field.default for setting, _, field in fields()}
    startup = one["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > defaults["STORAGE__STARTUP_TIMEOUT"]


def test_nobody_is_killed_before_he_has_ended_in_order() -> None:
    front, worker = PODS["perdure-front-door"], PODS["perdure-worker"]
    [_, pause] = container(front)["lifecycle"]["preStop"]["exec"]["command"]
    takes = int(pause) + float(SETTINGS["SERVER__STOP_TIMEOUT"]) + launch.ANSWER_SECONDS
    assert front["terminationGracePeriodSeconds"] > takes + 5
    assert worker["terminationGracePeriodSeconds"] > float(SETTINGS["WORKER__GRACE"]) + EXIT_SECONDS + 5


def test_everything_selects_pods_that_are_there() -> None:
    labels = [
        each["spec"]["template"]["metadata"]["labels"] for _, each in ALL if each["kind"] == "Deployment"
    ]
    selectors = [
        *found([each for _, each in ALL], "matchLabels"),
        the("Service", "perdure")["spec"]["selector"],
    ]
    ours = [each for each in selectors if "app.kubernetes.io/name" in each]
    assert len(ours) > 8
    assert [each for each in ours if each not in labels] == []
    targets = list(found([each for _, each in ALL], "scaleTargetRef"))
    assert {target["name"] for target in targets} == {"perdure-front-door", "perdure-worker"}
    assert (
        "replicas" not in the("Deployment", "perdure-front-door")["spec"]
    )  # or each deploy undoes what was scaled
    assert "/spec/replicas" in (FOLDER / "keda" / "kustomization.yaml").read_text()


def test_workers_are_scaled_by_metrics_that_are_told() -> None:
    known = {family.name for family in metrics.REGISTRY.collect()}
    triggers = the("ScaledObject", "perdure-worker")["spec"]["triggers"]
    asked = [re.findall(r"\bperdure_\w+", trigger["metadata"]["query"]) for trigger in triggers]
    assert asked == [["perdure_oldest_waiting_seconds"], ["perdure_worker_slots"]]
    assert {name for names in asked for name in names} <= known
    assert float(triggers[1]["metadata"]["threshold"]) == 0.8 * float(SETTINGS["WORKER__SLOTS"])


def test_prometheus_is_sent_where_metrics_are() -> None:
    for name in ("perdure-front-door", "perdure-worker"):
        [endpoint] = the("PodMonitor", name)["spec"]["podMetricsEndpoints"]
        assert endpoint["path"] == "/metrics"
        assert port_of(name, endpoint["port"])
        for reference in found(endpoint, "credentials"):
            assert reference["key"] in SECRETS


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


def test_the_pods_commands_run_and_answer_their_probes(
    private_services: LocalServices, tmp_path: Path
) -> None:
    """With the settings as they stand there, but for what is elsewhere on this machine."""
    here = {
        "DATABASE_URL": private_services.database_url,
        "REDIS_URL": private_services.redis_url,
        "AGENT": str(ROOT / "examples" / "echo.py"),
        "HOST": "127.0.0.1",
        **{name: free_port() for name in ("PORT", "OPS__PORT", "WORKER__HEALTH_PORT")},
    }
    env = surroundings(**{**SETTINGS, **SECRETS, **here})
    commands = {name: [PERDURE, *container(pod)["command"][1:]] for name, pod in PODS.items()}
    migrated = finished(commands["perdure-migrate"], cwd=tmp_path, env=env)
    assert migrated.returncode == 0, migrated.stderr
    with ExitStack() as stack:
        processes = {}
        for name, event in (("perdure-front-door", "serving"), ("perdure-worker", "worker.started")):
            processes[name] = stack.enter_context(started(commands[name], cwd=tmp_path, env=env))
            heard(processes[name], event)
        ports = {"http": here["PORT"], "health": here["WORKER__HEALTH_PORT"], "ops": here["OPS__PORT"]}
        asked = [
            (ports[get["port"]], get["path"]) for name in processes for get in found(PODS[name], "httpGet")
        ]
        asked.append((ports["health"], "/metrics"))
        key = {"authorization": f"Bearer {SECRETS['AUTH__BOOTSTRAP_KEY']}"}
        with httpx.Client(timeout=30) as client:
            for port, path in asked:
                assert client.get(f"http://127.0.0.1:{port}{path}").status_code == 200, (port, path)
            for path in ("/metrics", "/ops"):
                assert client.get(f"http://127.0.0.1:{ports['ops']}{path}").status_code == 401
                assert client.get(f"http://127.0.0.1:{ports['ops']}{path}", headers=key).status_code == 200
                assert client.get(f"http://127.0.0.1:{ports['http']}{path}", headers=key).status_code == 404
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=40)
            assert process.returncode == 0
