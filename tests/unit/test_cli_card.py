"""`perdure card`: the card as it is served; and whether a served one is signed by whom it should be."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.support.keys import pem
from tests.support.processes import PERDURE, ROOT, finished, serving, surroundings

ECHO = str(ROOT / "examples" / "echo.py")
PATH = "/.well-known/agent-card.json"
AGENT = """
from perdure import bindufy
bindufy({"name": "a", "capabilities": {"extended_agent_card": True},
         "extended_card": {"skills": [{"name": "rain", "description": "Makes rain"}]}}, str)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "key.pem").write_text(pem("ES256"))
    (tmp_path / "agent.py").write_text(AGENT)
    return tmp_path


def ran(folder: Path, *arguments: str, **settings: str) -> tuple[int, str, str]:
    result = finished([PERDURE, "card", *arguments], cwd=folder, env=surroundings(**settings))
    return result.returncode, result.stdout, result.stderr


def test_it_is_the_card_that_is_served(folder: Path) -> None:
    settings = {"CARD__SIGNING_KEY": "key.pem", "AUTH__API_KEYS": "false", "AUTH__BOOTSTRAP_KEY": "k" * 32}
    with serving(
        [PERDURE, "serve", "agent.py", "--port", "0"], cwd=folder, env=surroundings(**settings)
    ) as server:
        served = httpx.get(server.url + PATH).json()
        port = str(httpx.URL(server.url).port)
        code, printed, _ = ran(folder, "agent.py", PORT=port, **settings)
    assert (code, json.loads(printed)) == (0, served)
    assert served["signatures"]


def test_the_extended_card_is_shown_where_there_is_one(folder: Path) -> None:
    _, printed, _ = ran(folder, "--extended", AGENT="agent.py")
    assert [skill["id"] for skill in json.loads(printed)["skills"]] == ["rain"]
    code, _, said = ran(folder, ECHO, "--extended")
    assert (code, said.splitlines()) == (2, [said.strip()])
    assert "no extended card" in said


def test_what_callers_would_miss_is_told(folder: Path) -> None:
    code, said, _ = ran(folder, "agent.py", "--check", CARD__SIGNING_KEY="key.pem", CARD__KEY_ID="key-1")
    assert code == 0
    assert said.splitlines()[0] == "a 1.0.0: skills: 0, signed (ES256, key-1)"
    assert "description is missing" in said
    assert "no skills" in said
    assert "no https:// address" in said
    (folder / "agent.py").write_text("nonsense")
    assert ran(folder, "agent.py", "--check")[0] == 2


def test_a_key_that_cannot_be_read_is_one_line(folder: Path) -> None:
    for command in (["card", ECHO], ["serve", ECHO, "--port", "0"]):
        result = finished([PERDURE, *command], cwd=folder, env=surroundings(CARD__SIGNING_KEY="gone.pem"))
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.splitlines()[-1].startswith(
            "perdure: CARD__SIGNING_KEY is neither PEM nor a file"
        )
    told = finished(
        [PERDURE, "doctor", "--json", ECHO], cwd=folder, env=surroundings(CARD__SIGNING_KEY="gone.pem")
    )
    found = {each["check"]: each for each in map(json.loads, told.stdout.splitlines())}
    assert (told.returncode, found["card key"]["grade"]) == (1, "failed")
    told = finished(
        [PERDURE, "doctor", "--json", ECHO], cwd=folder, env=surroundings(CARD__SIGNING_KEY="key.pem")
    )
    found = {each["check"]: each for each in map(json.loads, told.stdout.splitlines())}
    assert (told.returncode, found["card key"]["grade"]) == (0, "ok")


def test_a_served_card_is_verified(folder: Path) -> None:
    settings = surroundings(CARD__SIGNING_KEY="key.pem", CARD__KEY_ID="key-1")
    with serving([PERDURE, "serve", ECHO, "--port", "0"], cwd=folder, env=settings) as server:
        assert ran(folder, "--verify", server.url)[:2] == (0, "echo: signed with the key key-1\n")
        assert ran(folder, "--verify", server.url + PATH)[0] == 0
        jwks = httpx.get(server.url + "/.well-known/jwks.json").text
        (folder / "jwks.json").write_text(jwks)
        (folder / "other.json").write_text(jwks.replace('"x":"', '"x":"A'))
        assert ran(folder, "--verify", server.url, "--keys", "jwks.json")[0] == 0
        code, _, said = ran(folder, "--verify", server.url, "--keys", "gone.json")
        assert (code, "cannot be read" in said) == (2, True)
        (folder / "other.json").write_text((ROOT / "LICENSE").read_text())
        assert ran(folder, "--verify", server.url, "--keys", "other.json")[0] == 2


def test_a_card_by_somebody_else_is_not_verified(folder: Path) -> None:
    (folder / "theirs.pem").write_text(pem("EdDSA"))
    jku = "https://keys.test/jwks.json"
    ours = surroundings(CARD__SIGNING_KEY="key.pem", CARD__JWKS_URL=jku)
    theirs = surroundings(CARD__SIGNING_KEY="theirs.pem")
    command = [PERDURE, "serve", ECHO, "--port", "0"]
    with (
        serving(command, cwd=folder, env=ours) as one,
        serving(command, cwd=folder, env=theirs) as other,
    ):
        code, _, said = ran(folder, "--verify", one.url)
        assert (code, jku in said) == (2, True)  # nobody is believed who says himself whom to believe
        keys = f"{other.url}/.well-known/jwks.json"
        code, _, said = ran(folder, "--verify", one.url, "--keys", keys)
        assert (code, "none of its signatures is right" in said) == (1, True)
        code, _, said = ran(folder, "--verify", other.url + "/docs")
        assert code == 1
    code, _, said = ran(folder, "--verify", one.url)
    assert (code, len(said.splitlines())) == (1, 1)
