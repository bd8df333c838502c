"""What names an agent, and the one line for what does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from perdure.agent.loader import load_agent
from perdure.errors import ConfigError

ONE = """
    from perdure.agent import bindufy
    def handler(messages): return messages[-1]["content"]
    {assigned}bindufy({{"name": "one"}}, handler)
"""


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, text: str, name: str = "my_agent.py") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dedent(text))
    return file


@pytest.mark.parametrize("assigned", ["agent = ", "mine = ", ""])
def test_a_file(tmp_path: Path, assigned: str) -> None:
    agent = load_agent(str(write(tmp_path, ONE.format(assigned=assigned))))
    assert agent.config.name == "one"


@pytest.mark.parametrize("assigned", ["agent = ", ""])
@pytest.mark.parametrize("spec", ["loadable_agent", "some.loadable_agent"])
def test_a_module_also_when_it_was_imported_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assigned: str, spec: str
) -> None:
    write(tmp_path, ONE.format(assigned=assigned), spec.replace(".", "/") + ".py")
    monkeypatch.chdir(tmp_path)
    assert load_agent(spec) is load_agent(spec)


def test_an_attribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(
        tmp_path,
        """
        from perdure.agent import bindufy
        class agents:
            first = bindufy({"name": "first"}, lambda messages: "1")
            second = bindufy({"name": "second"}, lambda messages: "2")
        other = 5
        """,
        "loadable_two.py",
    )
    monkeypatch.chdir(tmp_path)
    assert load_agent("loadable_two:agents.second").config.name == "second"
    assert load_agent(f"{file}:agents.first").config.name == "first"
    with pytest.raises(ConfigError, match="makes 2 agents: say which"):
        load_agent(str(file))
    with pytest.raises(ConfigError, match=r"there is no agents\.third"):
        load_agent("loadable_two:agents.third")
    with pytest.raises(ConfigError, match="no agent but int"):
        load_agent("loadable_two:other")


def test_a_file_imports_from_its_own_folder_and_is_not_main(tmp_path: Path) -> None:
    write(tmp_path, "ANSWER = 'from beside'", "loadable_neighbour.py")
    file = write(
        tmp_path,
        """
        from dataclasses import dataclass
        from loadable_neighbour import ANSWER
        from perdure.agent import bindufy
        @dataclass
        class Config: name: "str"
        assert __name__ != "__main__"
        agent = bindufy({"name": ANSWER}, lambda messages: None)
        """,
    )
    assert load_agent(str(file)).config.name == "from beside"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = 1", "makes no agent: call bindufy"),
        ("x = (", r"SyntaxError: .* \(my_agent.py, line 1\)"),
        ("\nimport not_there_at_all", r"ModuleNotFoundError: .*not_there_at_all.* \(my_agent.py, line 2\)"),
        ("raise SystemExit(5)", r"cannot be loaded: SystemExit: 5 \(my_agent.py, line 1\)"),
        ("from perdure.agent import bindufy\nbindufy({}, print)", "the agent's config is wrong: name"),
    ],
)
def test_a_file_that_is_no_agent(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        load_agent(str(write(tmp_path, text)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("no/such/file.py", "there is no file .*/no/such/file.py"),
        ("no_such_module:agent", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("not a module", "neither a file nor the name of a module"),
        ("", "neither a file nor the name of a module"),
    ],
)
def test_a_name_of_nothing(spec: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        load_agent(spec)
