"""A family whose values change must raise its version: digests of its output for a few texts, by version.

When one of these fails, and the change is meant, raise the family's version and write the new digest here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pyarrow as pa
import pytest

from tilth.quality_signals.models.importance import train_importance_model
from tilth.quality_signals.models.perplexity import LanguageModelParameters, train_language_model
from tilth.quality_signals.models.quality import train_quality_model
from tilth.quality_signals.registry import compute_family, families, get_family

TEXTS = [
    "",
    "One line.\nAnother line, which ENDS with an ellipsis...\n",
    "the same five words again, the same five words again; the same five words again!",
    "def f(x):\r\n    return {'key': x}  # lorem ipsum\r\n",
    "Größe, naïve café; Ελληνικά και ΣΑΣ…\n• 漢字かな交じり文",
    "data = '" + "QUJDREVG" * 16 + "'",
]
GOLDEN = {
    "bad_words": (2, "3e542aed3874a58b"),
    "blocked_domains": (1, "24ffa8569eb569d2"),
    "c4": (3, "f9c5fed5e81cc688"),
    "ccnet": (2, "e725e061197068f1"),
    "code_comments": (1, "8ca55ec2eec2c3f6"),
    "code_head": (1, "cc2a21e0ca92c532"),
    "code_html": (1, "69654653b59bfac4"),
    "code_shape": (2, "db2199dbb057cce8"),
    "dolma": (2, "4977678ba939c948"),
    "fineweb": (3, "e603dbb792a27dff"),
    "gopher": (2, "ec050e7fbe02dff9"),
    "gopher_repetition": (2, "caccc17da6cce510"),
    "importance": (2, "9e529139e14ca391"),
    "language": (2, "7f7ec41f90d3d76a"),
    "lines": (3, "de65b114998999ef"),
    "natural_language": (3, "eaebcf8e55a2cbd3"),
    "nucleotides": (1, "193117994582a6a3"),
    "parse_errors": (1, "0bcd114eecd8d8e0"),
    "perplexity": (2, "ab518cf5240f7232"),
    "pii": (2, "b272326a9dc2c8f8"),
    "quality": (2, "2fd55489243112dd"),
    "repetition": (2, "e71a05988fb2017a"),
    "secrets": (1, "ddea5abe198625ec"),
    "stop_words": (2, "1be8a4ce69832ee2"),
}
# Families that only know code; what a grammar of tree-sitter says changes with its version.
LANGUAGES = {"code_comments": "Python", "code_html": "HTML"}
TEXTS_OF = {"nucleotides": ["", "A cat.", "ACGTacgtNNNNRYS" * 20, "CGCGCGTATA" * 9, "ATTATTATTATT" * 10 + "nnACGU"]}
MODELS = {
    "importance": lambda: train_importance_model(TEXTS[1:3], TEXTS[3:]),
    "perplexity": lambda: train_language_model(TEXTS[1:], LanguageModelParameters(n_pieces=0)),
    "quality": lambda: train_quality_model(TEXTS[1:3] * 5, TEXTS[3:] * 5),
}


def test_every_family_has_a_golden_digest() -> None:
    assert GOLDEN.keys() == families().keys()


@pytest.mark.parametrize("family", GOLDEN)
def test_values_change_only_with_the_version(
    family: str, documents: Callable[..., pa.Table], resources: dict[str, bytes]
) -> None:
    texts = TEXTS_OF.get(family, TEXTS)
    table = documents(texts, language=[LANGUAGES.get(family, "en")] * len(texts))
    model = MODELS[family]() if get_family(family).needs_model else None
    rows = compute_family(get_family(family), table, model, resources).to_pylist()
    # Five digits: floating-point sums in C libraries may differ in their last bits from machine to machine.
    rounded = [{name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows]
    digest = hashlib.sha256(json.dumps(rounded, sort_keys=True).encode()).hexdigest()[:16]
    assert (get_family(family).version, digest) == GOLDEN[family]
