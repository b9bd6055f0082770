"""`tilth fit`: a model of the user's own files, the same bytes from the same files, with a manifest that says of which."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tilth.cli.score_verbs import fit as verb
from tilth.cli.score_verbs import score as score_verb
from tilth.errors import RecipeError, SourceError
from tilth.pipeline.fit import Settings, fit, manifest_path
from tilth.quality_signals.models.quality import load_quality_model

WANTED = [f"soil and seed make the field of year {i} ready for the plough and the harvest" for i in range(40)]
OTHERS = [f"buy cheap offer number {i} now click here free shipping online casino" for i in range(40)]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[str]]:
    found = {}
    for side, texts in (("positive", WANTED), ("negative", OTHERS)):
        path = tmp_path / f"{side}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts) + "no json\n")
        found[side] = [str(path)]
    return found


def test_a_classifier_with_its_manifest(tmp_path: Path, files: dict[str, list[str]]) -> None:
    manifest = fit("quality", files, tmp_path / "deep" / "wikiref.bin", settings=Settings(seed=7))
    model = (tmp_path / "deep" / "wikiref.bin").read_bytes()
    assert manifest == json.loads(manifest_path(tmp_path / "deep" / "wikiref.bin").read_text())
    assert manifest["sha256"] == hashlib.sha256(model).hexdigest()
    assert (manifest["seed"], manifest["parameters"]["seed"]) == (7, 7)
    assert manifest["n_texts"] == {"positive": 40, "negative": 40}
    for side, (path,) in files.items():
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        assert manifest["data"][side] == {"files": {f"{side}.jsonl": digest}, "n_rows": 41, "n_rejects": 1}
    classifier = load_quality_model(model)
    assert (classifier.score(WANTED[0]) or 0) > 0.9 > 0.1 > (classifier.score(OTHERS[0]) or 1)


def test_the_same_texts_give_the_same_bytes_in_any_order_and_another_seed_others(
    tmp_path: Path, files: dict[str, list[str]]
) -> None:  # fmt: skip
    path = Path(files["positive"][0])
    once = fit("quality", files, tmp_path / "a.bin", settings=Settings(max_documents=30))
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    again = fit("quality", files, tmp_path / "b.bin", settings=Settings(max_documents=30))
    assert once["sha256"] == again["sha256"]
    assert once["n_texts"] == {"positive": 30, "negative": 30}
    assert fit("quality", files, tmp_path / "c.bin", settings=Settings(1, 30))["sha256"] != once["sha256"]


def test_what_is_trained_scores_under_the_published_names(tmp_path: Path, files: dict[str, list[str]]) -> None:
    for kind, name in (("quality", "rps_doc_ml_wikiref"), ("importance", "rps_doc_books_importance")):
        words = [kind, "--positive", files["positive"][0], "--negative", files["negative"][0], "-o", str(tmp_path / name)]
        assert CliRunner().invoke(verb, words, catch_exceptions=False).exit_code == 0
    names = ("rps_doc_ml_wikiref", "rps_doc_books_importance")
    models = [word for name in names for word in ("--model", f"{name}={tmp_path / name}")]
    words = [files["positive"][0], "--signals", "rpv2,rps_doc_ml_wikiref", *models, "-o", str(tmp_path / "out")]
    assert CliRunner().invoke(score_verb, words, catch_exceptions=False).exit_code == 0
    scored = pq.read_table(next((tmp_path / "out").glob("*.parquet"))).to_pylist()
    assert min(row["rps_doc_ml_wikiref_score"] for row in scored if row["reject"] is None) > 0.9
    assert min(row["rps_doc_books_importance"] for row in scored if row["reject"] is None) > 0
    assert "rps_doc_books_importance_length_correction" in scored[0]


def test_a_language_model_has_one_side(tmp_path: Path, files: dict[str, list[str]]) -> None:
    manifest = fit("perplexity", {"positive": files["positive"]}, tmp_path / "lm.bin")
    assert manifest["n_texts"] == 40
    assert set(manifest["data"]) == {"positive"}


@pytest.mark.parametrize(
    ("kind", "sides", "settings", "says"),
    [
        ("qualty", ("positive", "negative"), Settings(), "Did you mean `quality`"),
        ("quality", ("positive",), Settings(), "needs negative texts"),
        ("perplexity", ("positive", "negative"), Settings(), "takes no negative texts"),
        ("quality", ("positive", "negative"), Settings(compat="redpajama-v2"), "no compatible form"),
        ("importance", ("positive", "negative"), Settings(compat="rpv1"), "no compatibility with `rpv1`"),
    ],
)
def test_mistakes(
    tmp_path: Path, files: dict[str, list[str]], kind: str, sides: tuple[str, ...], settings: Settings, says: str
) -> None:  # fmt: skip
    with pytest.raises(RecipeError, match=says):
        fit(kind, {side: files[side] for side in sides}, tmp_path / "m.bin", settings=settings)
    assert not (tmp_path / "m.bin").exists()


def test_a_folder_is_no_file_and_a_text_is_no_model(tmp_path: Path, files: dict[str, list[str]]) -> None:
    with pytest.raises(SourceError, match="a folder"):
        fit("quality", files, tmp_path)
    words = [files["positive"][0], "--model", f"wikiref={files['positive'][0]}", "-o", str(tmp_path / "out")]
    with pytest.raises(RecipeError, match="no trained model"):
        CliRunner().invoke(score_verb, words, catch_exceptions=False)
