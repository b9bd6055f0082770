"""The steps of models that a corpus trains on some of its sources and is then scored with, each a family of signals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tilth.artifacts.spec import UNICODE
from tilth.contracts import family_contract
from tilth.errors import RecipeError
from tilth.pipeline.graph import Step
from tilth.pipeline.parquet import Writer, read_columns, stream, write_table
from tilth.pipeline.recipe import Importance, Perplexity, QualityModel
from tilth.pipeline.steps import Inputs, Params, of_source, spread, texts_of

if TYPE_CHECKING:
    from tilth.quality_signals.family import SignalFamily

Model = QualityModel | Perplexity | Importance
FAMILY_OF = {QualityModel: "quality", Perplexity: "perplexity", Importance: "importance"}
LIBRARIES_OF = {QualityModel: ("floret",), Perplexity: ("sentencepiece",), Importance: ()}


def train(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Train one model on documents of the sources that it names. `params` are the fields of `work`, the description."""

    def texts(source: str) -> Iterable[str]:
        return spread(of_source(inputs, source), params["max_documents"])

    (folder / "model.bin").write_bytes(_TRAINERS[type(work)](work, texts))
    return {"size_bytes": (folder / "model.bin").stat().st_size}


def score(inputs: Inputs, folder: Path, params: Params, work: Model) -> dict[str, Any]:
    """Score one shard with a trained model."""
    from tilth.quality_signals.registry import compute_family

    family = family_of(work)
    model = (inputs[f"model.{work.name}"].path / "model.bin").read_bytes()
    (documents,) = texts_of(inputs)
    with Writer(folder / "signals.parquet", family_contract(family.name, dict(family.columns))) as writer:
        for batch in stream(documents, "documents.parquet", ["shard", "row", "text"]):
            writer.write(compute_family(family, batch, model))
    return {"n_rows": writer.n_rows}


def find_cutoffs(inputs: Inputs, folder: Path, params: Params, work: Perplexity) -> dict[str, Any]:
    """The perplexities, for each language, that part head, middle and tail of this corpus."""
    from tilth.quality_signals.models.perplexity_buckets import PerplexityCounts, write_cutoffs

    counts = PerplexityCounts()
    for shard in sorted({str(artifact.spec.shard) for artifact in inputs.values()}):
        languages, perplexities = _languages_and_perplexities(inputs, work, shard)
        counts.add(languages, perplexities)
    cutoffs = counts.cutoffs(work.head, work.tail)
    write_cutoffs(cutoffs, folder / "cutoffs.csv", work.head, work.tail)
    return {"n_languages": len(cutoffs)}


def assign_buckets(inputs: Inputs, folder: Path, params: Params, work: Perplexity) -> dict[str, Any]:
    """CCNet's bucket of each document of one shard: head, middle, tail, or all where it cannot be told."""
    from tilth.quality_signals.models import perplexity_buckets as buckets

    cutoffs = buckets.read_cutoffs(inputs[f"model.{work.name}.cutoffs"].path / "cutoffs.csv", work.head, work.tail)
    family = bucket_family(work)
    scored = inputs[f"signals.{work.name} {params['shard']}"]
    rows = read_columns(scored, "signals.parquet", ["shard", "row"])
    found = buckets.assign_buckets(*_languages_and_perplexities(inputs, work, params["shard"]), cutoffs)
    columns = {family: found, f"{family}_undefined": pa.nulls(len(rows), pa.string())}
    table = pa.table({"shard": rows.column("shard"), "row": rows.column("row"), **columns})
    return {"n_rows": write_table(folder / "signals.parquet", table, family_contract(family, {family: pa.string()}))}


def bucket_family(model: Perplexity) -> str:
    """`perplexity_bucket`: the name of the family and of its only column."""
    return f"{model.name}_bucket"


def family_of(model: Model) -> SignalFamily:
    """The family of signals that `model` gives, under the name that the recipe gives it.

    The family's own name at the start of a column is replaced: `quality_score` of a model `wikiref` is `wikiref_score`.
    """
    from tilth.quality_signals.registry import get_family

    return get_family(FAMILY_OF[type(model)]).renamed(model.name)


def _languages_and_perplexities(inputs: Inputs, model: Perplexity, shard: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    languages = read_columns(inputs[f"signals.language {shard}"], "signals.parquet", ["lid_language"]).column(0)
    return languages, read_columns(inputs[f"signals.{model.name} {shard}"], "signals.parquet", [model.name]).column(0)


def _train_quality(model: QualityModel, texts: Callable[[str], Iterable[str]]) -> bytes:
    from tilth.quality_signals.models.quality import train_quality_model

    return train_quality_model(texts(model.positive), texts(model.negative), seed=model.seed)


def _train_perplexity(model: Perplexity, texts: Callable[[str], Iterable[str]]) -> bytes:
    from tilth.quality_signals.models.kneser_ney import KneserNeyParameters
    from tilth.quality_signals.models.perplexity import LanguageModelParameters, train_language_model

    parameters = LanguageModelParameters(n_pieces=model.n_pieces, ngrams=KneserNeyParameters(order=model.order))
    return train_language_model(texts(model.train_on), parameters)


def _train_importance(model: Importance, texts: Callable[[str], Iterable[str]]) -> bytes:
    from tilth.quality_signals.models.importance import ImportanceParameters, train_importance_model

    return train_importance_model(texts(model.target), texts(model.source), ImportanceParameters(compat=model.compat))


_TRAINERS: Mapping[type, Callable[[Any, Callable[[str], Iterable[str]]], bytes]] = {
    QualityModel: _train_quality,
    Perplexity: _train_perplexity,
    Importance: _train_importance,
}


def training_step(model: Model) -> Step:
    """`model.<name>`."""
    return Step(f"model.{model.name}", 1, LIBRARIES_OF[type(model)], train)


def scoring_step(model: Model) -> Step:
    """`signals.<name>`."""
    family = family_of(model)
    return Step(f"signals.{model.name}", family.version, (UNICODE, *family.libraries), score)


def cutoff_step(model: Perplexity) -> Step:
    """`model.<name>.cutoffs`."""
    return Step(f"model.{model.name}.cutoffs", 1, (), find_cutoffs)


def bucket_step(model: Perplexity) -> Step:
    """`signals.<name>_bucket`."""
    return Step(f"signals.{bucket_family(model)}", 1, (), assign_buckets)


def check_signals(models: Iterable[Model], signals: Iterable[Any]) -> None:
    """Buckets are by language. Raises RecipeError where nothing tells the language."""
    if any(isinstance(model, Perplexity) for model in models) and "language" not in signals:
        raise RecipeError("perplexity buckets need the signals `language`", where="Corpus(signals=...)", fix="Add `language`.")
