"""When the bytes of a small output change, its step's version must have changed.

After a deliberate change: raise the version of the step, then `TILTH_UPDATE_GOLDEN=1 pytest tests/pipeline/test_golden.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tilth.artifacts import Store

HERE = Path(__file__).parent
# Corpus -> the fixture with a project in which it was built, the digests of its outputs, and the steps that they are of.
GOLDEN = {
    "small": ("built", HERE / "golden.json", ""),
    "copies": ("copies", HERE / "golden_copies.json", ""),
    "pages": ("overlapping", HERE / "golden_overlap.json", ("edit", "contamination")),
}


def made(project: Path, corpus: str, prefixes: str | tuple[str, ...]) -> dict[str, dict[str, object]]:
    store = Store(project / ".tilth")
    found: dict[str, dict[str, object]] = {}
    for part in store.get_named("corpus", corpus).parts:
        if not part.step.startswith(prefixes):
            continue
        spec = store.artifact(part).spec
        label = f"{part.step} {part.shard}" if part.shard else part.step
        found[label] = {"version": spec.version, "libraries": dict(spec.libraries), "digest": part.digest}
    return found


@pytest.mark.parametrize("corpus", GOLDEN)
def test_no_output_changes_without_a_new_version(corpus: str, request: pytest.FixtureRequest) -> None:
    fixture, path, prefixes = GOLDEN[corpus]
    now = made(request.getfixturevalue(fixture), corpus, prefixes)
    if os.environ.get("TILTH_UPDATE_GOLDEN"):
        path.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
        pytest.skip("golden digests written")
    golden = json.loads(path.read_text())
    assert now.keys() == golden.keys()
    changed = []
    for label, entry in now.items():
        old = golden[label]
        if entry["libraries"] != old["libraries"]:
            continue  # another version of a library is in the key already
        if entry["digest"] != old["digest"] and entry["version"] == old["version"]:
            changed.append(label)
    assert not changed, f"the output of {changed} changed, but not the version of its step"
