"""What belongs to the process and is changed while any thread has a plan open."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod


class Held(ABC):
    """Something that is in place as long as anybody holds it.

    Holding and releasing may be interrupted at any moment, and repeated.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holders: set[int] = set()

    def hold(self, owner: object) -> None:
        """Hold it for an owner, until `release`."""
        with self._lock:
            self._holders.add(id(owner))
            self._put()

    def release(self, owner: object) -> None:
        """Release it for an owner, if it holds it."""
        try:
            with self._lock:
                self._holders.discard(id(owner))
                if not self._holders:
                    self._take_away()
        finally:
            while self._lock._is_owned():  # type: ignore[attr-defined]  # after an interrupt
                self._lock.release()

    @property
    def is_held(self) -> bool:
        """Whether anybody holds it."""
        return bool(self._holders)

    @abstractmethod
    def _put(self) -> None:
        """Put it in place, if it is not there."""

    @abstractmethod
    def _take_away(self) -> None:
        """Take it away, as far as it is there."""
