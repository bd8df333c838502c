"""Agents that people already have, as handlers of ours: each module is for one library and needs the extra of its name.

Nothing else in Perdure imports this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around the imports of a library: where it is missing the error says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}: run pip install 'perdure[{extra}]'", name=error.name, path=error.path
        ) from None
