"""Dataset folders of Hugging Face: as `datasets` saves them (`save_to_disk`) or as the hub lays them out; without its library."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from tilth.corpus.layouts import RecordReader
from tilth.corpus.locations import FoundFile, open_raw, plan_files
from tilth.corpus.provenance.spdx_expressions import declared_licence, normalise_expression
from tilth.corpus.record_files import RecordFiles
from tilth.corpus.records import Document, LicenceClaim, Reject, Shard, fingerprint, printable
from tilth.corpus.registry import source
from tilth.corpus.sources.csv_files import CsvFiles
from tilth.corpus.sources.json_lines import read_json_lines
from tilth.corpus.sources.parquet_files import batch_rows, chosen_columns, read_parquet
from tilth.errors import SourceError, did_you_mean

CARD, MAX_CARD_BYTES = "README.md", 1 << 20
DATA = re.compile(r"\.(?:parquet|arrow|jsonl|json|csv|tsv)(?:\.(?:gz|zst|xz|bz2))?$", re.IGNORECASE)
NOT_DATA = frozenset({"dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json", "config.json"})
# https://huggingface.co/docs/hub/datasets-file-names-and-splits
SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation",
    "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
SHARDED = re.compile(r"([A-Za-z][\w.]*)-\d{5}-of-\d{5}")
# The card's short names (hub documentation, "Licenses") that are not SPDX's own in lower case.
LICENCES = {
    "mit": "MIT", "apache-2.0": "Apache-2.0", "unlicense": "Unlicense", "odc-by": "ODC-By-1.0", "odbl": "ODbL-1.0",
    "pddl": "PDDL-1.0",
    "gfdl": "GFDL-1.3-only", "cdla-permissive-2.0": "CDLA-Permissive-2.0", "bsd": "BSD-3-Clause", "gpl": "GPL-1.0-or-later",
    "gpl-3.0": "GPL-3.0-only", "gpl-2.0": "GPL-2.0-only", "lgpl-3.0": "LGPL-3.0-only", "agpl-3.0": "AGPL-3.0-only",
    "cc": "LicenseRef-cc",
}  # fmt: skip


@source
@dataclass(frozen=True, kw_only=True)
class HuggingFaceDataset(RecordFiles):
    """`path` is the dataset's folder, here or behind a URL: Parquet, Arrow, JSON lines or CSV shards.

    Splits and configurations come from the card's YAML, else from the names of files and folders. `split` and `config` choose
    (all splits, and the default configuration or the only one, if None); both are noted in `meta`. The licence is
    what the card says unless you declare one.
    """

    split: str | None = None
    config: str | None = None
    max_line_bytes: int = 32 << 20

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("pyarrow", "pyyaml")
    kind: ClassVar[str] = "dataset"

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """Shards of one split each. Raises SourceError: no dataset there, no such split, configuration, layout or licence."""
        files = self.files()
        card = self._card(files)
        by_split = self._splits(files, card)
        if self.split is not None:
            if self.split not in by_split:
                raise SourceError(f"there is no split `{self.split}`", where=self.where, fix=did_you_mean(self.split, by_split))
            by_split = {self.split: by_split[self.split]}
        groups = [(split, group) for split in sorted(by_split) for group in self.groups(by_split[split])]
        params = {
            **self.params(), "config": self.config, "max_line_bytes": self.max_line_bytes,
            "licence": declared_licence(self.licence, where=self.where), "card_licences": card_licences(card),
        }  # fmt: skip
        shards = plan_files(self.name, [group for _, group in groups], params, self.max_bytes, digest)
        return [replace(shard, params={**shard.params, "split": split}) for shard, (split, _) in zip(shards, groups, strict=True)]

    def _card(self, files: list[FoundFile]) -> dict[str, Any]:
        card = next((file for file in files if file.name == CARD), None)
        if card is None:
            return {}
        with open_raw(card.location, self.where) as stream:
            return parse_card(stream.read(MAX_CARD_BYTES).decode("utf-8", "replace"), f"{self.where}: {CARD}")

    def _splits(self, files: list[FoundFile], card: Mapping[str, Any]) -> dict[str, list[FoundFile]]:
        data = [file for file in files if DATA.search(file.name) and posixpath.basename(file.name) not in NOT_DATA]
        configs = [entry for entry in card.get("configs") or [] if isinstance(entry, Mapping) and entry.get("data_files")]
        if configs:
            found = _declared_splits(self._choose_config(configs), data)
        else:
            found = {}
            for file in data:
                found.setdefault(split_of(file.name), []).append(file)
        if not any(found.values()):
            fix = "give the folder of a dataset with Parquet, Arrow, JSON lines or CSV files"
            raise SourceError("no file of data is there", where=f"{self.where}: {self.path}", fix=fix)
        return {split: chosen for split, chosen in found.items() if chosen}

    def _choose_config(self, configs: list[Mapping[str, Any]]) -> Mapping[str, Any]:
        by_name = {_plain(entry.get("config_name", "default")): entry for entry in configs}
        default = next((name for name, entry in by_name.items() if entry.get("default")), "default")
        wanted = self.config or (default if default in by_name else next(iter(by_name)) if len(by_name) == 1 else "")
        if wanted not in by_name:
            what = f"there is no configuration `{wanted}`" if wanted else "the dataset has several configurations"
            raise SourceError(what, where=self.where, fix=f"config=... {did_you_mean(wanted, by_name)}")
        return by_name[wanted]

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every row, a reject for every damage. Raises SourceError: unreadable, no such column."""
        (file,) = unit
        noted = {key: shard.params[key] for key in ("split", "config") if shard.params[key]}
        for row in self._rows(file, self.reader(shard)):
            if isinstance(row, Document):
                row = replace(row, meta={**row.meta, **noted}, licences=row.licences or self._claims(row, shard))
            yield row

    def _rows(self, file: FoundFile, reader: RecordReader) -> Iterator[Document | Reject]:
        kind = DATA.search(file.name)
        assert kind is not None
        if ".parquet" in kind[0].lower():
            return read_parquet(file, reader, None, self.where)
        if ".arrow" in kind[0].lower():
            return read_arrow(file, reader, self.where)
        if ".json" in kind[0].lower():
            return read_json_lines(file, reader, self.max_line_bytes, self.where)
        return CsvFiles(self.name, self.path).read_file(file, reader)

    def _claims(self, row: Document, shard: Shard) -> list[LicenceClaim]:
        path = row.occurrences[0].path
        names: list[str] = shard.params["card_licences"]
        return [
            LicenceClaim(self.name, path, name, "repository", CARD, None, "dataset card", 1.0, effective=True) for name in names
        ]


def read_arrow(file: FoundFile, reader: RecordReader, where: str) -> Iterator[Document | Reject]:
    """The rows of one file of Arrow IPC, stream (what `datasets` writes) or file format. Raises SourceError if unreadable."""
    name = printable(file.name)
    n_done = 0
    with open_raw(file.location, where) as raw:
        is_file = raw.read(6) == b"ARROW1"
        raw.seek(0)
        try:
            for batch in _arrow_batches(raw, is_file):
                chosen_columns(batch.schema.names, reader.layout, None, f"{where}: {name}")
                for start in range(0, batch.num_rows, 1000):
                    yield from _checked_rows(batch.slice(start, 1000), name, n_done + start, reader)
                n_done += batch.num_rows
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            yield Reject(f"{name}:{n_done}", "damaged", f"all from row {n_done} on: {(str(error).splitlines() or [''])[0][:300]}")


def _checked_rows(batch: pa.RecordBatch, name: str, first: int, reader: RecordReader) -> Iterator[Document | Reject]:
    """The rows of a batch whose bytes nobody has checked: an offset that leads out of it would crash this process."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        if batch.num_rows == 1:
            problem = (str(error).splitlines() or [""])[0][:300]
            yield Reject(f"{name}:{first}", "decode" if "UTF8" in problem else "damaged", problem)
            return
        for i in range(batch.num_rows):
            yield from _checked_rows(batch.slice(i, 1), name, first + i, reader)
        return
    yield from batch_rows(batch, name, first, reader)


def _arrow_batches(raw: Any, is_file: bool) -> Iterator[pa.RecordBatch]:
    if not is_file:
        yield from pa.ipc.open_stream(raw)
        return
    table = pa.ipc.open_file(raw)
    for i in range(table.num_record_batches):
        yield table.get_batch(i)


def parse_card(text: str, where: str) -> dict[str, Any]:
    """The YAML between the `---` at the top of a dataset card; empty if there is none. Raises SourceError if it is no YAML."""
    import yaml

    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", text, re.DOTALL)
    if match is None:
        return {}
    try:
        card = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SourceError(f"the card's YAML cannot be read: {error}"[:300], where=where, fix="mend or remove the card") from None
    return card if isinstance(card, dict) else {}


def card_licences(card: Mapping[str, Any]) -> list[str]:
    """SPDX expressions for the licences that a card names; one that SPDX does not know becomes a LicenseRef."""
    named = card.get("license") or card.get("licence") or []
    found = []
    for name in map(_plain, named if isinstance(named, list) else [named]):
        short = name.strip().lower()
        known = LICENCES.get(short) or normalise_expression(name) or normalise_expression(short.upper())
        found.append(known or f"LicenseRef-{re.sub(r'[^A-Za-z0-9.-]+', '-', short) or 'unknown'}")
    return found


def split_of(name: str) -> str:
    """The split that a file's name or its folders say: `data/train-00000-of-00002.parquet`, `test/0.jsonl`; else train."""
    base = posixpath.basename(name)
    if match := SHARDED.match(base):
        return SPLITS.get(match[1].lower(), match[1]) if match[1] != "data" else _split_of_words(posixpath.dirname(name))
    return _split_of_words(name)


def _split_of_words(path: str) -> str:
    words = [word for part in reversed(path.split("/")) for word in re.split(r"[^A-Za-z]+", part.lower())]
    return next((SPLITS[word] for word in words if word in SPLITS), "train")


def _plain(value: Any) -> str:
    """A scalar of a card as text; empty for lists and mappings, which may hold each other a billion times over."""
    return str(value) if isinstance(value, str | int | float) else ""


def _declared_splits(config: Mapping[str, Any], files: list[FoundFile]) -> dict[str, list[FoundFile]]:
    declared = config["data_files"]
    entries = declared if isinstance(declared, list) else [declared]
    found: dict[str, list[FoundFile]] = {}
    for entry in entries:
        split = _plain(entry.get("split", "train")) if isinstance(entry, Mapping) else "train"
        paths = entry.get("path", []) if isinstance(entry, Mapping) else entry
        patterns = [_plain(path) for path in (paths if isinstance(paths, list) else [paths])]
        found.setdefault(split, []).extend(
            file for file in files if any(fnmatch.fnmatchcase(file.name, pattern.removeprefix("./")) for pattern in patterns)
        )
    return found
