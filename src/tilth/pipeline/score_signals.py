"""Which families of signals to score with, and rows turned into their columns: a row comes out for every row that went in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tilth.artifacts.spec import UNICODE, library_versions
from tilth.corpus.records import Document, Reject
from tilth.errors import RecipeError, SourceError, did_you_mean
from tilth.pipeline.interchange.redpajama_v2 import FAMILIES, FAMILIES_WITH_LISTS
from tilth.quality_signals.models.container import kind_of
from tilth.quality_signals.registry import SignalFamily, compute_families, families

BATCH_BYTES = 8 << 20  # of text
BATCH_ROWS = 2_000
GROUPS = {
    "rpv2": FAMILIES,
    "gopher": ("gopher", "gopher_repetition"),
}
FAMILY_OF = {"quality model": "quality", "importance model": "importance", "language model": "perplexity"}
MAP = pa.map_(pa.string(), pa.string())


@dataclass(frozen=True)
class Chosen:
    """Families by name, with the bytes of the lists and models that they take."""

    names: tuple[str, ...]
    resources: Mapping[str, bytes] = field(default_factory=dict)
    models: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def families(self) -> list[SignalFamily]:
        """The families themselves."""
        known = known_families(self.models)
        return [known[name] for name in self.names]

    @property
    def params(self) -> dict[str, Any]:
        """What decides the numbers: versions of families, digests of lists and models."""
        given = {**self.resources, **{f"model {name}": data for name, data in self.models.items()}}
        return {
            "signals": {family.name: family.version for family in self.families},
            "given": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(given.items())},
        }

    @property
    def libraries(self) -> dict[str, str]:
        """Versions of what the numbers depend on."""
        return library_versions(tuple(sorted({UNICODE, *(name for family in self.families for name in family.libraries)})))


def choose(wanted: str, resources: Mapping[str, bytes], models: Mapping[str, bytes]) -> Chosen:
    """Families by the names of groups (`rpv2`, `gopher`, `all`) and of families, separated by commas.

    A group takes what needs a list or a model only where one is given. Raises RecipeError for unknown names, and for a
    family that was named but lacks what it needs.
    """
    known = known_families(models)

    def can(family: SignalFamily) -> bool:
        return (not family.needs_model or family.name in models) and set(family.needs_resources) <= set(resources)

    names: dict[str, None] = {}
    for word in (part.strip() for part in wanted.split(",") if part.strip()):
        if word == "all":
            names |= dict.fromkeys(name for name, family in known.items() if can(family))
        elif word in GROUPS:
            more = [*(FAMILIES_WITH_LISTS if word == "rpv2" else ()), *(models if word == "rpv2" else ())]
            names |= dict.fromkeys([*GROUPS[word], *(name for name in more if name in known and can(known[name]))])
        elif word in known:
            _refuse_incomplete(known[word], resources, models)
            names[word] = None
        else:
            known_words = [*GROUPS, "all", *known]
            raise RecipeError(f"no signals are called `{word}`", "--signals", did_you_mean(word, known_words))
    if not names:
        raise RecipeError("no signals are chosen", "--signals", f"Known: {', '.join([*GROUPS, 'all', *known])}.")
    unused = [name for name in models if name not in names]
    if unused:
        fix = did_you_mean(unused[0], [name for name, family in known.items() if family.needs_model])
        raise RecipeError(f"a model is given for `{unused[0]}`, which is not scored", "--model", fix)
    return Chosen(tuple(sorted(names)), dict(resources), dict(models))


def known_families(models: Mapping[str, bytes]) -> dict[str, SignalFamily]:
    """All families, and those of models that bear another name than their family: `rps_doc_ml_wikiref` of a quality model.

    Raises RecipeError where such a file is no trained model.
    """
    known = families()
    for name, data in models.items():
        if name not in known:
            family = FAMILY_OF.get(kind_of(data))
            if family is None:
                named = [one.name for one in known.values() if one.needs_model]
                raise RecipeError(f"the file for `{name}` is no trained model", "--model", did_you_mean(name, named))
            if re.fullmatch("[a-z][a-z0-9_]*", name) is None:
                raise RecipeError(f"`{name}` cannot be the name of signals", "--model", "Lower-case letters, digits and _.")
            known[name] = known[family].renamed(name)
    return known


def _refuse_incomplete(family: SignalFamily, resources: Mapping[str, bytes], models: Mapping[str, bytes]) -> None:
    if family.needs_model and family.name not in models:
        raise RecipeError(f"the signals `{family.name}` need a trained model", "--signals", f"--model {family.name}=FILE")
    missing = [name for name in family.needs_resources if name not in resources]
    if missing:
        fix = f"--{missing[0].replace('_', '-')} FILE_OR_FOLDER"
        raise RecipeError(f"the signals `{family.name}` need the list `{missing[0]}`", "--signals", fix)


def read_list(name: str, path: Path) -> bytes:
    """A list that families take, `bad_words` or `blocked_domains`: a JSON file, or a folder as LDNOOBW or UT1 is unpacked.

    Raises SourceError: nothing there, or something else.
    """
    from tilth.quality_signals.fused.domains import blocked_domains, read_domains
    from tilth.quality_signals.fused.phrases import read_word_lists, word_lists

    from_folder, check = (word_lists, read_word_lists) if name == "bad_words" else (blocked_domains, read_domains)
    try:
        data = from_folder(path) if path.is_dir() else path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read the list: {error.strerror}", str(path), "give a JSON file or a folder") from error
    check(data)
    return data


@dataclass(frozen=True)
class ScoredBatch:
    """Rows in the order of the input; `texts` and `signals` (by family) have a row for each of its documents."""

    rows: Sequence[Document | Reject]
    texts: pa.Array
    signals: Mapping[str, pa.Table]

    @property
    def documents(self) -> list[Document]:
        """The rows that are documents."""
        return [row for row in self.rows if isinstance(row, Document)]

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of text."""
        return int(pc.sum(pc.binary_length(self.texts)).as_py() or 0)


def scored(
    rows: Iterable[Document | Reject], chosen: Chosen, language: str | None = None,
    settle: Callable[[Document], Document] | None = None,
) -> Iterator[ScoredBatch]:  # fmt: skip
    """Score rows in batches of bounded size. Memory is a small multiple of BATCH_BYTES, or of one long text.

    `language` is that of texts which do not name theirs; `settle` changes documents before they are scored.
    """
    held: list[Document | Reject] = []
    n_bytes = 0
    for row in rows:
        row = _settled(row, language)
        held.append(settle(row) if settle and isinstance(row, Document) else row)
        n_bytes += len(row.text) if isinstance(row, Document) else 0
        if n_bytes >= BATCH_BYTES or len(held) >= BATCH_ROWS:
            yield _scored(held, chosen)
            held, n_bytes = [], 0
    if held:
        yield _scored(held, chosen)


def _settled(row: Document | Reject, language: str | None) -> Document | Reject:
    if isinstance(row, Reject):
        return row
    if re.search("[\ud800-\udfff]", row.text):
        place = row.occurrences[0].path if row.occurrences else row.doc_id.hex()
        return Reject(place, "lone_surrogate", "the text cannot be written as UTF-8")
    return replace(row, language=language) if row.language is None and language else row


def _scored(rows: list[Document | Reject], chosen: Chosen) -> ScoredBatch:
    documents = [row for row in rows if isinstance(row, Document)]
    texts = pa.array([document.text for document in documents], pa.large_string())
    table = pa.table({
        "shard": pa.array(["files"] * len(documents), pa.string()),
        "row": pa.array(range(len(documents)), pa.int32()),
        "text": texts,
        "url": pa.array([document.url for document in documents], pa.string()),
        "language": pa.array([document.language for document in documents], pa.string()),
        "meta": pa.array([list(document.meta.items()) for document in documents], MAP),
    })  # fmt: skip
    return ScoredBatch(rows, texts, compute_families(chosen.families, table, chosen.models, chosen.resources))
