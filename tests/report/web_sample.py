"""The made-up store with what web corpora have besides: edits, signals of lines, words and buckets, policies, a mixture."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts import Part, Spec, Store
from tilth.contracts import DOCUMENTS, EDITS, family_contract

WHERE = {
    "cut": "rps_doc_word_count between 20 and 2000 and (lid_score > 0.3 or bucket = 'head') and not score_3 > 0.9 and is_keeper",
    "policy": "@redpajama-v2 and is_keeper",
}
N_SCORES = 40


def make_web_store(sample: ModuleType, root: Path) -> Store:
    """A corpus `demo` of 400 documents with three subsets; every fifth text is edited, the hostile ones among them."""
    from tilth.catalog.mixture import Mixture
    from tilth.catalog.pick import pick

    store, chance = sample.make_store(root, n_documents=400, upto="signals"), random.Random(11)
    demo = store.get_named("corpus", "demo")
    parts = list(demo.parts)
    for part in demo.of("read"):
        table = pq.read_table(store.artifact(part).path / "documents.parquet")
        parts += [_edit(store, sample, part, table), _signals(store, sample, part, table, chance)]
    store.save_named("corpus", "demo", parts, demo.meta)
    for name, where in WHERE.items():
        pick(store, "demo", name, where)
    mixture = Mixture({"web": 0.5, "packages": 0.3, "git <b>": 0.2}, max_repeats=4)
    pick(store, "demo", "mixed", "is_keeper", mixture=mixture, max_tokens=60_000)
    return store


def edits_of(row: int, text: str) -> list[dict[str, Any]]:
    """What is cut out of the text in this row: its beginning, and later something that is replaced."""
    if row % 5 or len(text) < 30:
        return []
    found = [{"start": 2, "end": 12, "replacement": "", "reason": "repeated_line"}]
    if row % 2 == 0:
        found.append({"start": 15, "end": 25, "replacement": "<i>|mail|</i>", "reason": "email_address"})
    return found


def apply(text: str, edits: list[dict[str, Any]]) -> str:
    """The text with the edits made, from its end on."""
    for edit in reversed(edits):
        text = text[: edit["start"]] + edit["replacement"] + text[edit["end"] :]
    return text


def _edit(store: Store, sample: ModuleType, part: Part, table: pa.Table) -> Part:
    texts = table["text"].to_pylist()
    edits = [{"shard": part.shard, "row": row, **edit} for row, text in enumerate(texts) for edit in edits_of(row, text)]
    edited = [apply(text, edits_of(row, text)) for row, text in enumerate(texts)]
    columns = {name: table[name].combine_chunks() for name in table.schema.names}
    columns |= {"text": pa.array(edited), "n_chars": pa.array([len(text) for text in edited], pa.int64())}
    columns["n_bytes"] = pa.array([len(text.encode()) for text in edited], pa.int64())

    def write(folder: Path) -> dict[str, Any]:
        pq.write_table(sample._table(DOCUMENTS, columns), folder / "documents.parquet")
        listed = {field.name: [edit[field.name] for edit in edits] for field in EDITS.schema}
        pq.write_table(sample._table(EDITS, listed), folder / "edits.parquet")
        return {"n_edits": len(edits)}

    return store.make(Spec("edit", 1, {"shard": part.shard}, shard=part.shard), write).part()


def _signals(store: Store, sample: ModuleType, part: Part, table: pa.Table, chance: random.Random) -> Part:
    n = table.num_rows
    lines = [[chance.random() for _ in range(row % 4)] for row in range(n)]
    values: dict[str, tuple[Any, list[Any]]] = {
        "rps_doc_mean_word_length": (pa.float64(), [chance.uniform(2, 12) for _ in range(n)]),
        "rps_doc_symbol_to_word_ratio": (pa.float64(), [chance.uniform(0, 0.12) for _ in range(n)]),
        "rps_doc_frac_chars_top_2gram": (pa.float64(), [chance.uniform(0, 0.25) for _ in range(n)]),
        "rps_lines_start_with_bulletpoint": (pa.list_(pa.float64()), [[float(x > 0.5) for x in line] for line in lines]),
        "rps_lines_uppercase_letter_fraction": (pa.list_(pa.float64()), lines),
        "mail_places": (pa.list_(pa.string()), [["x"] * (row % 3) for row in range(n)]),
        "bucket": (pa.string(), [None if row % 11 == 0 else chance.choice(["head", "middle", "tail"]) for row in range(n)]),
        "is_listed": (pa.bool_(), [row % 7 == 0 for row in range(n)]),
        **{f"score_{k}": (pa.float64(), [chance.random() ** (1 + k / 9) for _ in range(n)]) for k in range(N_SCORES)},
    }
    contract = family_contract("web", {name: kind for name, (kind, _) in values.items()})
    why = ["too <b>short</b>" if row % 11 == 0 else None for row in range(n)]
    columns = {name: column for name, (_, column) in values.items()}
    columns |= {"shard": [part.shard] * n, "row": list(range(n)), "web_undefined": why}

    def write(folder: Path) -> dict[str, Any]:
        pq.write_table(sample._table(contract, columns), folder / "signals.parquet")
        return {}

    return store.make(Spec("signals.web", 1, {"shard": part.shard}, shard=part.shard), write).part()
