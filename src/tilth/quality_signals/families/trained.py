"""The families whose model a corpus trains on itself: quality, perplexity and importance weights."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.models.importance import ImportanceModel, load_importance_model
from tilth.quality_signals.models.perplexity import LanguageModel, load_language_model
from tilth.quality_signals.models.quality import QualityClassifier, load_quality_model
from tilth.quality_signals.registry import BatchScores, batch_signal


@batch_signal("quality", version=2, columns={"quality_score": pa.float64()}, libraries=("floret",), load_model=load_quality_model)
def quality(batch: TextBatch, model: QualityClassifier) -> BatchScores:
    """Probability, from 0 to 1, that a text is of the positive side."""
    return _scores(_table({"quality_score": [model.score(text) for text in batch.texts.to_pylist()]}, "no words"))


@batch_signal(
    "perplexity",
    version=2,
    columns={"perplexity": pa.float64()},
    libraries=("sentencepiece",),
    load_model=load_language_model,
)
def perplexity(batch: TextBatch, model: LanguageModel) -> BatchScores:
    """How surprising a text is for an n-gram model, a token's inverse probability as CCNet computes it."""
    return _scores(model.perplexities(batch.texts.to_pylist()).select(["perplexity", "undefined"]))


@batch_signal(
    "importance",
    version=2,
    columns={"importance": pa.float64(), "importance_length_correction": pa.float64()},
    load_model=load_importance_model,
)
def importance(batch: TextBatch, model: ImportanceModel) -> BatchScores:
    """DSIR's log importance weight, also corrected for length (Xie et al., arXiv:2302.03169)."""
    found = [model.score(text) for text in batch.texts.to_pylist()]
    reason = "empty text" if model.parameters.compat else "no words"
    columns = {
        name: [scores and scores[side] for scores in found]
        for side, name in enumerate(("importance", "importance_length_correction"))
    }
    return _scores(_table(columns, reason))


def _table(columns: dict[str, list[float | None]], reason: str) -> pa.Table:
    """Scores as float64 columns; where there is none, `undefined` names the reason."""
    arrays = {name: pa.array(values, pa.float64()) for name, values in columns.items()}
    missing = next(iter(arrays.values())).is_null()
    return pa.table({**arrays, "undefined": pc.if_else(missing, pa.scalar(reason), pa.scalar(None, pa.string()))})


def _scores(table: pa.Table) -> BatchScores:
    table = table.combine_chunks()
    reasons = table.column("undefined")
    masks = {
        reason: pc.fill_null(pc.equal(reasons, reason), False).to_numpy() for reason in pc.unique(reasons.drop_null()).to_pylist()
    }
    columns = {name: _one_array(table.column(name)) for name in table.column_names if name != "undefined"}
    return BatchScores(columns, masks)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
