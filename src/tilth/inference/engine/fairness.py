"""Whose turn it is to be read: tenants in a ring, each with a deficit of tokens (Shreedhar & Varghese 1995)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator

from tilth.inference.engine.jobs import Reading

Tenant = str | None


class FairQueue:
    """Readings that wait or are being read, in order within a tenant; a turn gives each tenant `quantum` tokens.

    What a tenant's requests read and say is charged to it, so one that says much waits longer to be read. Turns are given
    once nobody who waits has tokens left, so a debt counts only beside others: a tenant alone never waits for itself.
    """

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self._ring: deque[Tenant] = deque()
        self._readings: dict[Tenant, deque[Reading]] = {}
        self._deficits: dict[Tenant, float] = defaultdict(float)

    def __iter__(self) -> Iterator[Reading]:
        """All of them."""
        return (reading for readings in self._readings.values() for reading in readings)

    def push(self, reading: Reading, is_first: bool = False) -> None:
        """Add one as its tenant's last, or as its first."""
        tenant = reading.job.request.tenant
        if tenant not in self._readings:
            self._readings[tenant] = deque()
            self._ring.append(tenant)
        readings = self._readings[tenant]
        (readings.appendleft if is_first else readings.append)(reading)

    def remove(self, reading: Reading) -> None:
        """Take one out."""
        tenant = reading.job.request.tenant
        readings = self._readings[tenant]
        readings.remove(reading)
        if not readings:
            del self._readings[tenant]
            self._ring.remove(tenant)
            self._deficits[tenant] = min(0.0, self._deficits[tenant])

    def charge(self, tenant: Tenant, n_tokens: int) -> None:
        """Count tokens that were read or said for a tenant."""
        self._deficits[tenant] -= n_tokens

    def next(self, begin: Callable[[Reading], bool]) -> Reading | None:
        """The reading whose turn it is; `begin` is asked whether one that has not begun may.

        Once one may not, no other begins before it, or a long prompt would never find room between short ones.
        """
        while self._ring and all(self._deficits[tenant] <= 0 for tenant in self._ring):
            for tenant in self._ring:
                self._deficits[tenant] += self.quantum
        none_begins = False
        for tenant in sorted(self._ring, key=lambda tenant: self._deficits[tenant] <= 0):
            readings = self._readings[tenant]
            reading: Reading | None = readings[0]
            if readings[0].states is None and (none_begins or not begin(readings[0])):
                none_begins = True
                # one that has begun holds what others may wait for: it goes on even in debt, and before one that cannot begin
                reading = next((each for each in readings if each.states is not None), None)
            if reading is not None:
                self._ring.rotate(-self._ring.index(tenant))
                return reading
        return None
