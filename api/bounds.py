"""What bounds all operations of this process together, whichever agent they are for."""

from __future__ import annotations

from typing import NamedTuple

from perdure.settings import ServerSettings
from perdure.storage import Storage

from .places import Places
from .quotas import Quotas


class Bounds(NamedTuple):
    """Tasks of a caller and of all, open streams, sends that wait. A caller's own are counted at each agent."""

    quotas: Quotas
    streams: Places
    blocking: Places


def bounds_of(storage: Storage, settings: ServerSettings) -> Bounds:
    """Those of the settings."""
    return Bounds(
        Quotas(storage, settings),
        Places("streams", most=settings.max_streams, each=settings.max_streams_per_caller),
        Places("blocking sends", most=settings.max_blocking, each=settings.max_blocking_per_caller),
    )
