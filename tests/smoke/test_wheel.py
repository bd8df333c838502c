"""The wheel, built from the sdist, in a clean environment, run from a folder that has packages called like ours.

The libraries are those of this environment, by a .pth: an installation of its own takes a minute and needs the network. With
CLEAN=1 (`make dist CLEAN=1`, as releases are built) they are installed as for a user: by pip, with the extra `local`, in the
versions of constraints.txt.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from tests.support.keys import pem
from tests.support.processes import ROOT, finished, serving, started, surroundings, text_of

ARQ = Path(sys.executable).parent / "arq"
HOSTILE = "raise SystemExit('this is not the module that was meant')"
AGENT = """
from perdure import bindufy
bindufy({"name": "shout"}, lambda messages: messages[-1]["content"].upper())
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it: `make dist` names the one that it has built."""
    if given := os.environ.get("DIST"):
        return Path(given)
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = finished(build, cwd=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and, behind it, the libraries of this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    (wheel,) = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    if os.environ.get("CLEAN"):
        # pytest is what an author's tests need besides.
        subprocess.run(
            [*pip, "-c", str(ROOT / "constraints.txt"), f"{wheel}[local]", "pytest"], check=True, timeout=300
        )
        return folder / "bin"
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # A .pth inside a folder that a .pth names is not read: the checkout stays out of the way.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """An author's folder with an agent and packages of their own."""
    for name in ("api", "worker", "alembic"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(HOSTILE)
    (tmp_path / "agent.py").write_text(AGENT)
    return tmp_path


def test_only_the_name_perdure_reaches_site_packages(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"perdure"}
    for needed in (
        "py.typed",
        "api/app.py",
        "api/assets/docs.html",
        "api/assets/swagger-ui/LICENSE",
        "api/assets/swagger-ui/VERSION",
        "api/assets/swagger-ui/swagger-ui-bundle.js",
        "worker/settings.py",
        "migrations/env.py",
        "migrations/versions/20251207_0001_initial_schema.py",
    ):
        assert f"perdure/{needed}" in names
    licences = {name.rpartition("/")[2] for name in names if "/licenses/" in name and ".dist-info/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


def test_the_sdist_has_what_a_reader_needs(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "NOTICE",
        "CHANGELOG.md",
        "alembic.ini",
        "examples/echo.py",
        "api/app.py",
    } <= names
    assert not [name for name in names if name.startswith((".env", ".venv", ".perdure", "dist/"))]


def test_it_is_the_wheel_that_runs(installed: Path, hostile: Path) -> None:
    where = finished(
        [str(installed / "python"), "-P", "-c", "import perdure; print(perdure.__file__)"], cwd=hostile
    )
    assert where.stdout.startswith(str(installed.parent)), where.stderr


def test_it_serves_from_a_folder_with_packages_called_like_ours(installed: Path, hostile: Path) -> None:
    with serving([str(installed / "perdure"), "serve", "agent.py", "--port", "0"], cwd=hostile) as server:
        assert text_of(server.send("hello")) == "HELLO"
        for path in ("/docs", "/docs/swagger-ui-bundle.js", "/openapi.json"):
            assert httpx.get(server.url + path).status_code == 200
        assert server.stop() == 0


def test_it_signs_cards_from_such_a_folder(installed: Path, hostile: Path) -> None:
    (hostile / "key.pem").write_text(pem("EdDSA"))
    perdure, env = str(installed / "perdure"), surroundings(CARD__SIGNING_KEY="key.pem")
    with serving([perdure, "serve", "agent.py", "--port", "0"], cwd=hostile, env=env) as server:
        verified = finished([perdure, "card", "--verify", server.url], cwd=hostile)
    assert verified.stdout.startswith("shout: signed with the key "), verified.stderr
    shown = finished([perdure, "card", "agent.py"], cwd=hostile, env=env)
    assert '"signatures"' in shown.stdout, shown.stderr


def test_an_authors_tests_run_from_such_a_folder(installed: Path, hostile: Path) -> None:
    """With the fixtures of the wheel, beside packages called like ours, and no server anywhere."""
    for name in ("order.py", "test_order.py"):
        (hostile / name).write_text((ROOT / "examples" / name).read_text())
    command = [str(installed / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ran = finished(command, cwd=hostile)
    assert "4 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_durable_fleet_from_such_a_folder(
    installed: Path, hostile: Path, empty_database_url: str, redis_url: str
) -> None:
    env = surroundings(
        STORAGE_TYPE="postgres",
        DATABASE_URL=empty_database_url,
        QUEUE_TYPE="arq",
        REDIS_URL=redis_url,
        AGENT="agent.py",
        PORT="0",
        STORAGE__RUN_MIGRATIONS_ON_STARTUP="false",
    )
    perdure = str(installed / "perdure")
    too_early = finished([perdure, "serve"], cwd=hostile, env=env)
    assert too_early.returncode == 2
    assert "run `perdure migrate upgrade`" in too_early.stderr
    migrated = finished([perdure, "migrate", "upgrade"], cwd=hostile, env=env)
    assert migrated.returncode == 0, migrated.stderr

    with serving([perdure, "serve"], cwd=hostile, env=env) as server:
        task = server.send("hello", blocking=False)
        assert task["status"]["state"] == "submitted"
        arq = [str(installed / "python"), str(ARQ), "perdure.worker.settings.WorkerSettings", "--burst"]
        drained = finished(arq, cwd=hostile, env=env)
        assert drained.returncode == 0, drained.stderr
        assert text_of(server.call("tasks/get", {"id": task["id"]})) == "HELLO"


@pytest.mark.timeout(180)  # a lease has to run out, where it is the worker with the task that dies
def test_the_quickstart(installed: Path, hostile: Path) -> None:
    """Its agent, its commands, its kill; only that nobody looks for the worker in the log."""
    page = (ROOT / "docs" / "quickstart.md").read_text()
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert "perdure serve my_agent.py" in page
    assert "perdure up my_agent.py --workers 2" in page
    (hostile / "my_agent.py").write_text(code.replace("time.sleep(1)", "time.sleep(0.2)"))
    perdure = str(installed / "perdure")

    def send(url: str, text: str) -> str:
        return finished([perdure, "send", "--to", url, text], cwd=hostile).stdout.strip()

    with serving([perdure, "serve", "my_agent.py", "--port", "0"], cwd=hostile) as server:
        assert send(server.url, "one two three") == "ONE\nTWO\nTHREE"

    up = [perdure, "up", "my_agent.py", "--workers", "2", "--port", "0"]
    with started(up, cwd=hostile) as process:
        assert process.stdout is not None
        said = iter(process.stdout)
        [url] = next(filter(None, (re.findall(r"serving on (http://[\d.:]+)", line) for line in said)))
        words = list(map(str, range(30)))
        with started([perdure, "send", "--to", url, " ".join(words)], cwd=hostile) as sending:
            next(line for line in said if "turn.started" in line)
            fleet = psutil.Process(process.pid).children(recursive=True)
            workers = [each for each in fleet if "worker" in each.cmdline()]
            assert len(workers) == 2
            workers[0].kill()
            for line in said:  # it had the task, or it had not
                if "turn.settled" in line:
                    break
            answer, _ = sending.communicate(timeout=50)
        assert answer.split()[-30:] == words
        process.send_signal(signal.SIGINT)
        for _ in said:
            pass
        assert process.wait(timeout=40) == 130
