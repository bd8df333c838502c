"""What is handed to Prometheus and Grafana asks for metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from perdure import metrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS = json.loads((DEPLOY / "grafana" / "perdure.json").read_text())["panels"]
RUNBOOK = (DEPLOY.parent / "docs" / "runbook.md").read_text()
OURS = re.compile(r"\bperdure_\w+")


def _known() -> set[str]:
    return {name for family in metrics.REGISTRY.collect() for name in _samples(family.name, family.type)}


def _samples(name: str, kind: str) -> Iterator[str]:
    match kind:
        case "counter":
            yield f"{name}_total"
        case "histogram":
            yield from (f"{name}_{part}" for part in ("bucket", "sum", "count"))
        case _:
            yield name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_asks_for_what_exists(rule: dict[str, str]) -> None:
    asked = set(OURS.findall(rule["expr"]))
    assert asked
    assert asked <= _known()
    assert rule["annotations"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_has_its_section_in_the_runbook(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
    [section] = re.findall(rf"^### {rule['alert']}\n\n\*(\w+)\.\*", RUNBOOK, re.MULTILINE)
    assert section.lower() == rule["labels"]["severity"]


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    assert set(re.findall(r"^### (Perdure\w+)", RUNBOOK, re.MULTILINE)) == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_asks_for_what_exists(panel: dict[str, list[dict[str, str]]]) -> None:
    asked = {name for target in panel["targets"] for name in OURS.findall(target["expr"])}
    assert asked
    assert asked <= _known()


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for panel in PANELS for target in panel["targets"] for name in OURS.findall(target["expr"])}
    families = {family.name for family in metrics.REGISTRY.collect() if family.name.startswith("perdure_")}
    missing = {name for name in families if not any(each.startswith(name) for each in shown)}
    assert not missing


def test_every_metric_is_counted_somewhere() -> None:
    root = DEPLOY.parent
    code = "".join(
        path.read_text() for folder in ("api", "worker", "perdure") for path in (root / folder).rglob("*.py")
    )
    names = [name for name in vars(metrics) if isinstance(getattr(metrics, name), MetricWrapperBase)]
    assert names
    # Here by its name, or in `metrics` by its labels.
    assert [name for name in names if f"metrics.{name}" not in code and f" {name}.labels(" not in code] == []
