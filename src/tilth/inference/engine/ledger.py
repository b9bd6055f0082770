"""The bytes that running requests hold, when there is no cache to count them."""

from __future__ import annotations


class Ledger:
    """reserved_bytes never pass capacity_bytes."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes, self.reserved_bytes = capacity_bytes, 0

    @property
    def used_bytes(self) -> int:
        """Those reserved."""
        return self.reserved_bytes

    def reserve(self, n_bytes: int) -> bool:
        """Count n_bytes more, unless they would not fit."""
        if self.reserved_bytes + n_bytes > self.capacity_bytes:
            return False
        self.reserved_bytes += n_bytes
        return True

    def give_back(self, n_bytes: int) -> None:
        """Count n_bytes less."""
        assert 0 <= n_bytes <= self.reserved_bytes
        self.reserved_bytes -= n_bytes
