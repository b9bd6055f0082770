"""ReturnTimes: how soon states of a kind are asked for again, learned from what was, whether it was still there or not."""

from __future__ import annotations

import numpy as np

N_INTERVALS = 4096
N_BINS = 48
# Half an octave each: from an eighth of a second to a month.
EDGES = np.concatenate([[0.0], 0.125 * 2.0 ** (np.arange(N_BINS) / 2)])
WIDTHS = np.diff(EDGES)


class ReturnTimes:
    """A ring of the last N_INTERVALS idle times, each of one kind, and for each kind and age the best rate of return.

    rates (n_kinds, N_BINS), a second: of a state that is idle for that long, the largest over all horizons of P(it returns
    within the horizon) / E[time until it returns or the horizon ends]. This is the index of a bandit whose arm pays once (Gittins
    1979), and hit density where lifetimes are chosen rather than suffered (Beckmann et al., NSDI 2018). Idle times that still
    last are counted by the time they were watched, so what never returns is learned, too.
    """

    def __init__(self, n_kinds: int, weight_of_all: float = 2.0) -> None:
        self.n_kinds, self.weight_of_all = n_kinds, weight_of_all
        self.n_begun = 0
        self._begin = np.zeros(N_INTERVALS)
        self._end = np.zeros(N_INTERVALS)
        self._kind = np.zeros(N_INTERVALS, dtype=np.int64)
        self._returned = np.zeros(N_INTERVALS, dtype=bool)
        self.rates = np.zeros((n_kinds, N_BINS))
        self.update(0.0)

    def begin(self, kind: int, now: float) -> int:
        """A state of a kind is idle from now on; returns the ticket with which to end that."""
        at = self.n_begun % N_INTERVALS
        self._begin[at], self._end[at], self._kind[at], self._returned[at] = now, np.inf, kind, False
        self.n_begun += 1
        return self.n_begun - 1

    def end(self, ticket: int, now: float, has_returned: bool) -> None:
        """It was asked for, or is watched no longer. Tickets below 0, ended ones and those that left the ring are ignored."""
        at = ticket % N_INTERVALS
        if 0 <= ticket >= self.n_begun - N_INTERVALS and np.isinf(self._end[at]):
            self._end[at], self._returned[at] = now, has_returned

    def update(self, now: float) -> None:
        """Compute the rates from the ring. A kind of which little is known borrows from all, and all from rate ~ 1 / age."""
        n = min(self.n_begun, N_INTERVALS)
        kind, returned = self._kind[:n], self._returned[:n]
        idle = np.maximum(0, np.minimum(self._end[:n], now) - self._begin[:n])
        cell = kind * N_BINS + age_bin(idle)
        n_returned = self._count(cell[returned])
        n_there = self._count(cell)
        in_last_bin = self._count(cell, idle - EDGES[age_bin(idle)])
        n_longer = n_there[:, ::-1].cumsum(1)[:, ::-1] - n_there
        watched = n_longer * WIDTHS + in_last_bin
        share = self.weight_of_all / max(self.weight_of_all, n)
        hazard = (n_returned + share * (n_returned.sum(0) + 0.1)) / (watched + share * (watched.sum(0) + 0.4 * WIDTHS))
        self.rates = _best_rates(hazard)

    def _count(self, cells: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(cells, weights, minlength=self.n_kinds * N_BINS).reshape(self.n_kinds, N_BINS)


def age_bin(seconds: np.ndarray) -> np.ndarray:
    """The bin of each idle time, int64; the last bin has no end."""
    octaves = 2 * np.log2(np.maximum(seconds, 1e-9) / EDGES[1])
    return np.clip(np.floor(octaves).astype(np.int64) + 1, 0, N_BINS - 1)


def _best_rates(hazard_KB: np.ndarray) -> np.ndarray:
    """From the rate within each bin to the best rate over all horizons that begin with it."""
    survived = np.exp(-np.cumsum(hazard_KB * WIDTHS, axis=1))
    before = np.concatenate([np.ones((len(hazard_KB), 1)), survived[:, :-1]], axis=1)
    returns = before - survived
    time = returns / hazard_KB
    zeros = np.zeros((len(hazard_KB), 1))
    returns, time = (np.concatenate([zeros, part.cumsum(1)], axis=1) for part in (returns, time))
    n_returns = returns[:, None, 1:] - returns[:, :-1, None]
    seconds = time[:, None, 1:] - time[:, :-1, None]
    is_ahead = np.triu(np.ones((N_BINS, N_BINS), dtype=bool)) & (seconds > 0)
    return np.where(is_ahead, n_returns / np.where(is_ahead, seconds, 1), 0).max(axis=2)
