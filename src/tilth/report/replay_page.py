"""write_replay: the page of one replay, where there is no project to show it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tilth.artifacts.atomic import write_atomically
from tilth.report.markup import tag
from tilth.report.panels.replay import replay_blocks
from tilth.report.write import page


def write_replay(out: Path, about: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> Path:
    """Write it to `out`, and return that; about and cells as in `replay_blocks`. Raises UserError where altair is missing."""
    title = f"Replay of {about['trace']}"
    blocks = [block.html() for block in replay_blocks(about, cells)]
    sentence = "Shares are of the prompts' tokens; what is held is counted in bytes and never passes the capacity."
    write_atomically(out, page(title, sentence, [tag("section", *blocks, id="replay", data_panel="replay")]).encode())
    return out
