"""What the first lines of a file say of it: that a program wrote it, or that it is XML."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

N_LINES, N_CHARS = 5, 20_000  # of the text are read: minified files have no second line
XML_CHARS = 100
# The Stack v2 (arXiv:2402.19173, appendix A) looks for these, here without regard to case.
_GENERATED = re.compile(r"auto-?generated|automatically generated|generated automatically|this file is generated", re.IGNORECASE)


@batch_signal("code_head", version=1, columns={"says_generated": pa.bool_(), "has_xml_head": pa.bool_()})
def code_head(batch: TextBatch) -> BatchScores:
    """Does one of the first five lines (of at most 20,000 characters together) say that the file was generated?

    And do the first 100 characters hold `<?xml version=` (StarCoder's filter: bigcode-dataset, preprocessing/filtering.py)?
    Generated files that do not say so are told by their names and contents, which is a question of language detection.
    """
    says: list[bool] = []
    is_xml: list[bool] = []
    for head in pc.utf8_slice_codeunits(batch.texts, 0, N_CHARS).to_pylist():
        lines = "\n".join(head.split("\n", N_LINES)[:N_LINES])
        says.append(_GENERATED.search(lines) is not None)
        is_xml.append("<?xml version=" in head[:XML_CHARS])
    return BatchScores({"says_generated": pa.array(says, pa.bool_()), "has_xml_head": pa.array(is_xml, pa.bool_())})
