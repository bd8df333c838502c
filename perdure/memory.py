"""What the collector of garbage need not look at."""

from __future__ import annotations

import gc


def keep_what_is_loaded() -> None:
    """Once a process has started: its modules live as long as it does, and looking through them at every full collection costs a
    worker under load a tenth of its time."""
    gc.collect()
    gc.freeze()
