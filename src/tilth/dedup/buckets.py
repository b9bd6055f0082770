"""Which documents share a band key, and the pairs worth comparing among them: linear in the documents, never quadratic."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tilth.dedup.shingles import Hashes

Ints = npt.NDArray[np.int64]


class Buckets(NamedTuple):
    """Documents that share a key: `members` bucket by bucket, ascending in each; `starts` of the buckets, `sizes`."""

    members: Ints
    starts: Ints
    sizes: Ints


def buckets(keys: Hashes) -> Buckets:
    """Group the positions of equal `keys`; groups of one are left out."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], sorted_keys[1:] != sorted_keys[:-1])))
    sizes = np.diff(np.append(starts, len(keys)))
    kept = sizes >= 2
    return Buckets(order, starts[kept], sizes[kept])


def select(found: Buckets, chosen: npt.NDArray[np.bool_]) -> Buckets:
    """Only the buckets that `chosen` (one flag a bucket) says, with their members side by side."""
    starts, sizes = found.starts[chosen], found.sizes[chosen]
    ends = np.cumsum(sizes)
    inside = np.arange(int(sizes.sum()), dtype=np.int64) - np.repeat(ends - sizes, sizes)
    return Buckets(found.members[np.repeat(starts, sizes) + inside], ends - sizes, sizes)


def all_pairs(found: Buckets) -> tuple[Ints, Ints]:
    """Every pair (smaller, larger) within every bucket; for small buckets."""
    lefts, rights = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for size in np.unique(found.sizes):
        starts = found.starts[found.sizes == size]
        members = found.members[starts[:, None] + np.arange(size)]
        first, second = np.triu_indices(int(size), k=1)
        lefts.append(members[:, first].reshape(-1))
        rights.append(members[:, second].reshape(-1))
    return np.concatenate(lefts), np.concatenate(rights)


def star_pairs(found: Buckets) -> tuple[Ints, Ints]:
    """The first member of each bucket with each other member, bucket by bucket."""
    others = np.ones(len(found.members), dtype=bool)
    others[found.starts] = False
    return np.repeat(found.members[found.starts], found.sizes - 1), found.members[others]


def without(found: Buckets, gone: npt.NDArray[np.bool_]) -> Buckets:
    """The buckets without their first members and without the others that `gone` (in the order of star_pairs) marks."""
    labels = np.repeat(np.arange(len(found.sizes)), found.sizes - 1)[~gone]
    members = star_pairs(found)[1][~gone]
    sizes = np.bincount(labels, minlength=len(found.sizes))
    starts = np.cumsum(sizes) - sizes
    return select(Buckets(members, starts, sizes), sizes >= 2)
