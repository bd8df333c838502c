"""What a storage keeps as JSON, and reads when somebody looks: a 1.0 answer passes it on as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

from perdure.stored.payload import Json

T = TypeVar("T")


class Kept(Sequence[T]):
    """Messages or artifacts in their stored form. In all else it is the tuple of what `load` reads of it."""

    __slots__ = ("_load", "_loaded", "stored")

    def __init__(self, stored: Sequence[Json], load: Callable[[Mapping[str, Any]], T]) -> None:
        self.stored = stored
        """Not to be changed."""
        self._load = load
        self._loaded: tuple[T, ...] | None = None

    @property
    def _items(self) -> tuple[T, ...]:
        if self._loaded is None:
            self._loaded = tuple(map(self._load, self.stored))
        return self._loaded

    def __len__(self) -> int:
        return len(self.stored)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...

    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        return self._items[index]

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == (other._items if isinstance(other, Kept) else other)

    __hash__ = None  # type: ignore[assignment]  # nor has what it holds

    def __repr__(self) -> str:
        return repr(self._items)


def stored(items: Sequence[T], dump: Callable[[T], Json]) -> Sequence[Json]:
    """Their stored form, which nobody may change: as it was kept, or as `dump` makes it."""
    return items.stored if isinstance(items, Kept) else [dump(item) for item in items]
