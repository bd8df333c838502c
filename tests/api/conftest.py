"""The front door in memory mode."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.api.front import Front, echo, opened_front


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """A front door whose agent does nothing by itself: the test plays it."""
    async with opened_front() as front:
        yield front


@pytest.fixture
async def echoing(front: Front) -> Front:
    """A front door whose agent repeats what it hears, and asks back when it is asked."""
    front.plays(echo)
    return front


@pytest.fixture
async def pushing() -> AsyncIterator[Front]:
    """A front door with push notifications switched on."""
    async with opened_front({"capabilities": {"push_notifications": True}}) as front:
        yield front
