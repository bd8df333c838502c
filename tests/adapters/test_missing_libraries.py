"""An adapter whose library is not installed says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.processes import PERDURE, finished

LIBRARIES = {"a2a": "a2a", "langgraph": "langchain_core", "pydantic_ai": "pydantic_ai"}


@pytest.mark.parametrize("adapter", LIBRARIES)
def test_the_extra_is_named(tmp_path: Path, adapter: str) -> None:
    (tmp_path / "my_agent.py").write_text(
        f"import sys\nsys.modules[{LIBRARIES[adapter]!r}] = None  # as if it were not there\n"
        f"from perdure.adapters import {adapter}\n"
    )
    extra = f"run pip install 'perdure[{adapter.replace('_', '-')}]'"
    served = finished([PERDURE, "serve", "my_agent.py"], cwd=tmp_path)
    assert (served.returncode, served.stdout, served.stderr.count("\n")) == (2, "", 1)
    assert extra in served.stderr
    assert extra in finished([sys.executable, "my_agent.py"], cwd=tmp_path).stderr.splitlines()[-1]
