"""What a project keeps of opt-out, in its folder `optout/` and not in `.tilth`, which may be deleted and built again.

    optout/key                              32 random bytes, made on first use; not for git
    optout/<corpus>.json                    withdrawn/1: digests of the requests, and of what each shard is read without
    optout/fitted/<digest>/                 a tokenizer or model that was fitted before and stays
    optout/tombstones/<id>.json             tombstone/1, signed
    optout/tombstones/<id>.pending.json     one whose build has not ended

All names and places are HMAC-SHA256 digests by the key, contents the sha256 of their SWHIDs. The signature is an
HMAC-SHA256 as well: who holds the key can check it, nobody else can (it is no public-key signature).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tilth.artifacts import Artifact
from tilth.artifacts.atomic import disk_errors, write_atomically
from tilth.artifacts.spec import canonical_json
from tilth.artifacts.store import MANIFEST
from tilth.corpus.optout.withdrawn import FIELDS, Withdrawn
from tilth.errors import StoreError
from tilth.pipeline.fitted import Fit

ALGORITHM = "HMAC-SHA256"
_SIGNED = b"tombstone/1\0"


@dataclass(frozen=True)
class Order:
    """Requests that were made together, as digests: (kind, digest) each; `scope` is occurrence or content."""

    scope: str
    near: bool
    asked: tuple[tuple[str, str], ...]

    @property
    def id(self) -> str:
        """16 hexadecimal digits: the same requests have the same."""
        return hashlib.sha256(canonical_json([self.scope, self.near, sorted(self.asked)])).hexdigest()[:16]

    @staticmethod
    def of_tombstone(body: Mapping[str, Any]) -> Order:
        """The order that a tombstone is of."""
        return Order(body["scope"], body["near"], tuple((one["kind"], one["digest"]) for one in body["requests"]))

    def by_kind(self) -> dict[str, set[str]]:
        """The digests of each kind."""
        return {kind: {digest for own, digest in self.asked if own == kind} for kind, _ in self.asked}


def as_few(orders: Iterable[Order]) -> list[Order]:
    """The same requests as one order for each scope, so that the corpus is looked through as few times."""
    asked: dict[tuple[str, bool], set[tuple[str, str]]] = {}
    for order in orders:
        asked.setdefault((order.scope, order.near), set()).update(order.asked)
    return [Order(scope, near, tuple(sorted(own))) for (scope, near), own in sorted(asked.items())]


@dataclass(frozen=True)
class Kept:
    """What is kept of one corpus: all orders there were, what they withdrew from each shard, and what stays as it was fitted."""

    orders: tuple[Order, ...] = ()
    shards: Mapping[str, Withdrawn] = ()  # type: ignore[assignment]
    fits: tuple[Fit, ...] = ()


class OptOutFiles:
    """The folder `optout` of a project, as far as it is about one corpus."""

    def __init__(self, project: Path, corpus: str) -> None:
        self.folder, self.corpus = project / "optout", corpus
        self.tombstones = self.folder / "tombstones"

    # -- the key -------------------------------------------------------------

    def key(self) -> bytes:
        """The key of this project. Raises StoreError where it is gone though digests by it are kept."""
        try:
            return bytes.fromhex((self.folder / "key").read_text().strip())
        except FileNotFoundError:
            pass
        if any(self.folder.glob("*.json")):
            fix = "Bring it back from where the project is kept; without it nothing of what was asked can be recognised."
            raise StoreError("the key of the opt-out lists is gone", str(self.folder / "key"), fix)
        return b""

    def make_key(self) -> bytes:
        """The key of this project, made now where there is none; readable by its owner alone."""
        found = self.key()
        if found:
            return found
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / ".gitignore", b"key\n")
            write_atomically(self.folder / "key", secrets.token_hex(32).encode() + b"\n")
            os.chmod(self.folder / "key", 0o600)
        return self.key()

    # -- what is withdrawn -----------------------------------------------------

    def kept(self) -> Kept:
        """All that was asked of this corpus and what it withdrew. Raises StoreError for a damaged file."""
        path = self.folder / f"{self.corpus}.json"
        try:
            body = json.loads(path.read_bytes())
            orders = [Order(one["scope"], one["near"], tuple(map(tuple, one["asked"]))) for one in body["orders"]]
            shards = {name: Withdrawn(*(frozenset(one[field]) for field in FIELDS)) for name, one in body["shards"].items()}
            fits = tuple(Fit(**one) for one in body.get("fits", ()))
        except FileNotFoundError:
            return Kept((), {})
        except (ValueError, KeyError, TypeError):
            fix = "Bring it back from where the project is kept: a build without it would read what was withdrawn."
            raise StoreError("the list of what is withdrawn is damaged", str(path), fix) from None
        return Kept(tuple(orders), shards, fits)

    def add(self, orders: list[Order], shards: Mapping[str, Withdrawn], fits: Iterable[Fit] = (), *, refit: bool = False) -> None:
        """Keep these orders, what they withdraw and what stays fitted, beside what is kept already; no fit stays with `refit`."""
        before = self.kept()
        stay = {} if refit else {fit.node: fit for fit in (*before.fits, *fits)}
        merged = {
            name: before.shards.get(name, Withdrawn()) | shards.get(name, Withdrawn()) for name in {*before.shards, *shards}
        }
        all_orders = [asdict(order) for order in dict.fromkeys([*before.orders, *orders])]
        lists = {name: {field: sorted(getattr(one, field)) for field in FIELDS} for name, one in merged.items() if one}
        body = {"contract": "withdrawn/1", "corpus": self.corpus, "orders": all_orders, "shards": lists}
        body |= {"fits": [asdict(stay[node]) for node in sorted(stay)]} if stay else {}
        write_atomically(self.folder / f"{self.corpus}.json", _pretty(body))

    def fit_folder(self, digest: str) -> Path:
        """Where the files of something fitted are kept."""
        return self.folder / "fitted" / digest

    def keep_fit(self, artifact: Artifact) -> None:
        """Keep the files of something fitted, whole or not at all."""
        place = self.fit_folder(artifact.digest)
        if place.is_dir():
            return
        partial = place.with_name(f".{artifact.digest}.{uuid.uuid4().hex[:8]}")
        with disk_errors(place):
            shutil.copytree(artifact.path, partial, ignore=shutil.ignore_patterns(MANIFEST))
            partial.rename(place)

    def drop_fits(self) -> None:
        """Remove the files that no corpus keeps any more."""
        corpora = [path.stem for path in self.folder.glob("*.json")]
        kept = {fit.digest for corpus in corpora for fit in OptOutFiles(self.folder.parent, corpus).kept().fits}
        for place in (self.folder / "fitted").glob("*"):
            if place.name not in kept:
                shutil.rmtree(place)

    # -- tombstones ------------------------------------------------------------

    def pending(self) -> Iterator[dict[str, Any]]:
        """Tombstones of this corpus whose build has not ended."""
        for path in sorted(self.tombstones.glob("*.pending.json")):
            body = json.loads(path.read_bytes())
            if body["corpus"] == self.corpus:
                yield body

    def signed(self) -> list[dict[str, Any]]:
        """The finished tombstones of this corpus, oldest first."""
        paths = [path for path in self.tombstones.glob("*.json") if not path.name.endswith(".pending.json")]
        bodies = [json.loads(path.read_bytes()) for path in paths]
        return sorted((body for body in bodies if body["corpus"] == self.corpus), key=lambda body: (body["at"], body["id"]))

    def free_id(self, wanted: str) -> str:
        """`wanted`, or with a number where a tombstone has that: the same may be forgotten again from the same corpus."""
        taken = {body["id"] for body in self.signed()}
        return next(one for one in (wanted, *(f"{wanted}-{n}" for n in range(2, len(taken) + 3))) if one not in taken)

    def contents_gone(self, near: bool | None = None) -> frozenset[str]:
        """Digests of the contents that may be nowhere, by the orders with (or without) near-duplicates, or by all."""
        bodies = [body for body in [*self.signed(), *self.pending()] if body["scope"] == "content"]
        own = [body for body in bodies if near is None or body["near"] == near]
        return frozenset(digest for body in own for one in body["removed"]["documents"] for digest in one["contents"])

    def save_pending(self, tombstone: Mapping[str, Any]) -> None:
        """Keep what is going to be a tombstone, before anything is done."""
        self.tombstones.mkdir(parents=True, exist_ok=True)
        write_atomically(self._pending_path(tombstone), _pretty(tombstone))

    def sign(self, tombstone: Mapping[str, Any]) -> Path:
        """Sign and keep a tombstone that was pending; returns where it lies."""
        path = self.tombstones / f"{tombstone['id']}.json"
        body = {**tombstone, "algorithm": ALGORITHM}
        write_atomically(path, _pretty({**body, "signature": self._signature(body)}))
        self._pending_path(tombstone).unlink(missing_ok=True)
        return path

    def is_genuine(self, tombstone: Mapping[str, Any]) -> bool:
        """Whether a tombstone is as it was signed by this project's key."""
        body = {name: value for name, value in tombstone.items() if name != "signature"}
        return hmac.compare_digest(str(tombstone.get("signature")), self._signature(body))

    def _pending_path(self, tombstone: Mapping[str, Any]) -> Path:
        return self.tombstones / f"{tombstone['id']}.pending.json"

    def _signature(self, body: Mapping[str, Any]) -> str:
        return hmac.new(self.key(), _SIGNED + canonical_json(body), hashlib.sha256).hexdigest()


def _pretty(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"
