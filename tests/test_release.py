"""What a release is made of: notices of what is carried along, workflows, the image's recipe."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.processes import PERDURE, ROOT, serving, surroundings

TARGETS = set(re.findall(r"^([.a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_everything_that_is_carried_along_is_in_the_notice() -> None:
    """Each folder with a licence of its own, by its path and the name that stands in its VERSION."""
    notice = (ROOT / "NOTICE").read_text()
    carried = [path.parent for path in (ROOT / "api").rglob("LICENSE")]
    assert carried
    for folder in carried:
        assert f"\n{folder.relative_to(ROOT).as_posix()}\n" in notice
        for line in (folder / "VERSION").read_text().splitlines():
            assert line.split()[0].partition("@")[0] in notice, line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_anybody_can_run(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job.get("steps", ())]
    commands = [step["run"] for step in steps if "run" in step]
    made = {target for command in commands for target in re.findall(r"\bmake ([.a-z-]+)", command)}
    assert made <= TARGETS
    assert made or ".ci/run" in commands
    assert workflow["permissions"] == {"contents": "read"}


def test_a_release_is_checked_first() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    assert jobs["ci"]["uses"] == "./.github/workflows/ci.yml"
    assert jobs["build"]["needs"] == "ci"
    assert jobs["publish"]["needs"] == "build"


def test_the_versions_of_python_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    classifiers = project["project"]["classifiers"]
    told = [found[1] for each in classifiers if (found := re.search(r":: Python :: (3\.\d+)$", each))]
    assert project["project"]["requires-python"] == f">={told[0]}"
    assert project["tool"]["mypy"]["python_version"] == told[0]
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert jobs["everything"]["strategy"]["matrix"]["python"] == told
    bases = re.findall(r"^FROM python:(3\.\d+)-slim", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert len(set(bases)) == 1
    assert bases[0] in told
    assert f"Python {told[0]} or newer" in (ROOT / "README.md").read_text()


def test_the_image_is_nobody_s_root_and_knows_whether_it_is_well(tmp_path: Path) -> None:
    recipe = (ROOT / "Dockerfile").read_text()
    final = recipe.rpartition("\nFROM ")[2]
    [user] = re.findall(r"^USER (\d+)$", final, re.MULTILINE)
    assert f"useradd --system --uid {user} " in final
    [check] = re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", final, re.MULTILINE)
    program, *arguments = json.loads(check)
    assert program == "python"
    command = [PERDURE, "serve", str(ROOT / "examples" / "echo.py"), "--port", "0"]
    with serving(command, cwd=tmp_path, env=surroundings(LOG__FORMAT="json")) as server:
        port = server.url.rpartition(":")[2].strip("/")
        line = [sys.executable, *(argument.replace("3773", port) for argument in arguments)]
        assert subprocess.run(line, capture_output=True, check=False).returncode == 0
    assert subprocess.run(line, capture_output=True, check=False).returncode == 1


def test_what_goes_into_the_image_is_let_into_its_build() -> None:
    """What the sdist is made of has to pass .dockerignore."""
    let_in = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    sdist = (ROOT / "pyproject.toml").read_text().partition("targets.sdist]")[2].partition("]\n")[0]
    assert set(re.findall(r'^ +"([^"]+)",$', sdist, re.MULTILINE)) <= let_in
