"""The Python of docs/redpajama.md runs as it stands there."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'tilth[interchange]'")
pytest.importorskip("spacy", reason="datatrove cuts English words with spaCy")


def test_the_examples_run_one_after_the_other(tmp_path: Path, repository: Path, tilth: Callable[..., Any]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (repository / "docs" / "redpajama.md").read_text(), re.DOTALL)
    (recipe,) = [block for block in blocks if block.startswith("# recipes/pages.py")]
    others = [block for block in blocks if block is not recipe]
    assert len(others) == 2
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "pages.py").write_text(recipe)
    (tmp_path / "data").mkdir()
    for name in ("one", "two"):
        records = [
            {
                "text": f"{'The soil is made ready for the seed that is of the rye, with care. ' * (3 * i + 1)}{i} {name}",
                "url": f"http{'s' * (i % 2)}://{name}.example/{i}",
            }
            for i in range(5)
        ]
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    tilth("build", "pages", cwd=tmp_path)
    query = "select count(*) as n, count(*) filter (gopher_dt_keeps and https_keeps) as good from pages"
    (row,) = json.loads(tilth("sql", query, "--json", cwd=tmp_path).stdout)
    assert row["n"] == 10
    assert 0 < row["good"] < 10
    for block in others:
        subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True, capture_output=True, env=dict(os.environ))
    assert sum(len(path.read_text().splitlines()) for path in (tmp_path / "copies").iterdir()) == 10
    exported = [json.loads(line) for line in gzip.decompress((tmp_path / "pages.jsonl.gz").read_bytes()).splitlines()]
    assert len(exported) == 10
    assert {row["source"] for row in exported} == {"pages"}
