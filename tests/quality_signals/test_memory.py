"""Less than 1 GB for any text: all families over one ugly input, in a process of its own, whose peak the kernel tells."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tilth.quality_signals import family
from tilth.quality_signals.families import parse_errors
from tilth.quality_signals.fused.text_batch import MAX_BYTES, MOST_LINES
from tilth.quality_signals.models.importance import train_importance_model
from tilth.quality_signals.models.perplexity import LanguageModelParameters, train_language_model
from tilth.quality_signals.models.quality import train_quality_model
from tilth.quality_signals.registry import compute_family, families, get_family

MOST_KIB = 1_000_000
FUSED = ("natural_language", "repetition", "lines", "stop_words", "bad_words")
TEN_MEGABYTES = {
    "newlines": r"'\n' * 10**7",
    "short_lines": r"'a\n' * (5 * 10**6)",
    "spaces": "' ' * 10**7",
    "no_space": "'x' * 10**7",
    "nul": r"'\0' * 10**7",
    "one_mark": r"'\u0301' * (5 * 10**6)",
    "marks_out_of_order": r"'\u0301\u0323' * (5 * 10**6 // 2)",
    "sigmas": r"'\u03a3\n' * (10**7 // 3)",
    "one_word": "'a ' * (5 * 10**6)",
    "other_words": "' '.join(map(str, range(12 * 10**5)))",
    "punctuation": "'!' * 10**7",
    "citations": "'[1]' * (10**7 // 3)",
    "addresses": "'a@bc.de ' * (10**7 // 8)",
    "han": r"''.join(map(chr, range(0x4e00, 0x9e00))) * 163",
}
SCORE = """
import sys
from pathlib import Path
import pyarrow as pa
from tilth.quality_signals.registry import compute_families, families
texts = eval(sys.argv[1])
texts = [texts] if isinstance(texts, str) else texts
n, one = len(texts), lambda value, kind: pa.array([value], kind).take(pa.array([0] * len(texts), pa.int32()))
columns = {"shard": one("s", pa.string()), "row": pa.array(range(n), pa.int32()), "text": pa.array(texts, pa.large_string()),
           "url": one("http://a.example/", pa.string()), "language": one("en", pa.string()),
           "meta": one([], pa.map_(pa.string(), pa.string()))}
del texts
models = {path.stem: path.read_bytes() for path in Path(sys.argv[2]).glob("*.model")}
names = sys.argv[3].split() or list(families())
lists = {"bad_words": b'{"en": ["darn", "a b"]}', "blocked_domains": b'{"casino.example": "gambling"}'}
found = compute_families([families()[name] for name in names], pa.table(columns), models, lists)
assert all(table.num_rows == n for table in found.values())
print(*(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    mine, others = ["a few words of mine, and more"] * 9, ["something else that others wrote"] * 9
    (folder / "importance.model").write_bytes(train_importance_model(mine, others))
    (folder / "perplexity.model").write_bytes(train_language_model(mine, LanguageModelParameters(n_pieces=0)))
    (folder / "quality.model").write_bytes(train_quality_model(mine, others))
    return folder


def peak_kib(models: Path, texts: str, names: str = "") -> int:
    command = [sys.executable, "-c", SCORE, texts, str(models), names]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the peak that Linux tells")
@pytest.mark.parametrize("name", TEN_MEGABYTES)
def test_all_families_over_ten_megabytes_in_one_text(models: Path, name: str) -> None:
    assert peak_kib(models, TEN_MEGABYTES[name]) < MOST_KIB


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the peak that Linux tells")
@pytest.mark.parametrize(
    "texts",
    [
        pytest.param("['ab c.\\n'] * 100_000", id="tiny_documents"),
        pytest.param("'The same few words, and more of them.\\n' * (10**8 // 38)", id="hundred_megabytes"),
    ],
)
def test_all_families_over_much_text(models: Path, texts: str) -> None:
    assert peak_kib(models, texts) < MOST_KIB


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the peak that Linux tells")
@pytest.mark.parametrize(
    "texts",
    [
        pytest.param("'a ' * (5 * 10**7)", id="words_of_one_letter"),
        pytest.param("'\\n' * 10**8", id="newlines"),
        pytest.param(
            "'\\n'.join(' '.join(map(str, range(i, i + 10**5))) for i in range(0, 12 * 10**6, 10**5))[: 10**8]", id="other_words"
        ),
    ],
)
def test_the_signals_of_redpajama_over_hundred_ugly_megabytes(models: Path, texts: str) -> None:
    assert peak_kib(models, texts, " ".join(FUSED)) < MOST_KIB


def test_longer_texts_are_undefined_with_a_reason(
    documents: Callable[..., pa.Table], resources: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {one.name: one.max_bytes for one in families().values() if one.max_bytes != family.MAX_BYTES} == {
        **dict.fromkeys((*FUSED, "nucleotides"), MAX_BYTES),
        **dict.fromkeys(("blocked_domains", "ccnet", "secrets"), family.ANY_SIZE),
        "parse_errors": parse_errors.MAX_BYTES,
    }
    limit = family.MAX_BYTES
    table = documents(["short. ", "x" * (limit + 1), "y" * limit, "the end"])
    for name in ("pii", "code_shape", "gopher"):
        found = compute_family(get_family(name), table, None, resources).to_pylist()
        assert found[1] == {
            **dict.fromkeys(found[1]), "shard": "s", "row": 1, f"{name}_undefined": f"text of more than {limit} bytes"
        }  # fmt: skip
        alone = [compute_family(get_family(name), table.slice(row, 1), None, resources).to_pylist()[0] for row in (0, 2, 3)]
        assert [found[row] for row in (0, 2, 3)] == alone


@pytest.mark.parametrize("family_name", ["lines", "c4", "fineweb"])
def test_texts_of_more_lines_are_undefined_with_a_reason(documents: Callable[..., pa.Table], family_name: str) -> None:
    scored = get_family(family_name)
    most, more = compute_family(scored, documents(["\n" * MOST_LINES, "\n" * (MOST_LINES + 1)])).to_pylist()
    assert more[f"{family_name}_undefined"].endswith(f"more than {MOST_LINES} lines")
    nulls = {name for name in scored.columns if more[name] is None}
    assert nulls >= {name for name in scored.columns if family_name != "fineweb" or "after_c4" in name}
    if family_name == "lines":
        assert len(most["line_start"]) == MOST_LINES
    if family_name == "c4":
        assert most["c4_n_lines"] == MOST_LINES
