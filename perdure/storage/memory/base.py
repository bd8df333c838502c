"""What every part of `MemoryStorage` shares: the lock and what it guards."""

from __future__ import annotations

import threading

from perdure.storage.memory.ledger import Ledger


class Locked:
    """Each method holds the lock from its first look to its last change."""

    _lock: threading.Lock
    _ledger: Ledger
