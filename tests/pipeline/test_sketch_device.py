"""The wire from `kernels.similarity_sketch` to signatures: the same bits as the CPU's own code, and no torch where there is no GPU."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.dedup.minhash.signatures import sign
from tilth.errors import BackendError
from tilth.pipeline import signing, sketch_device
from tilth.pipeline.dedup_files import Search, deduplicate
from tilth.pipeline.sketch_device import sketches_by_kernel, sketches_on_device

SIGN = """
import sys, numpy as np, pyarrow as pa
from functools import partial
from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.dedup.minhash.signatures import sign
from tilth.kernels import use_backend
from tilth.pipeline.sketch_device import sketches_by_kernel
texts = pa.array(["a b c d e f g h", "", "one two", None, "x y z " * 40])
plain = sign(texts, texts, MinHashParameters())
with use_backend("triton"):
    wired = sign(texts, texts, MinHashParameters(), partial(sketches_by_kernel, device="cpu"))
assert all(np.array_equal(a, b) for a, b in zip(plain[1:], wired[1:])) and plain.band_keys.any()
print("equal")
"""


def _texts() -> list[str | None]:
    rng = random.Random(2)
    pages = [" ".join(rng.choices("abcdefghij", k=rng.randrange(80))) for _ in range(300)]
    return [*pages, *pages[:100], "", None, "one word"]


@pytest.mark.parametrize("unit", ["words", "characters"])
def test_signatures_by_the_operator_are_the_same_bits(unit: str) -> None:
    texts = pa.array(_texts(), pa.large_string())
    parameters = MinHashParameters(unit=unit)  # type: ignore[arg-type]
    plain, wired = (sign(texts, texts, parameters, compute) for compute in (None, partial(sketches_by_kernel, device="cpu")))
    for one, two in zip(plain[1:], wired[1:], strict=True):
        assert one.dtype == two.dtype
        assert np.array_equal(one, two)


def test_the_triton_kernel_signs_with_the_same_bits() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", SIGN], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "equal", done.stderr


def test_a_search_signs_by_what_the_device_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in _texts()))
    calls: list[int] = []

    def counted(values: np.ndarray, ends: np.ndarray, maps: np.ndarray, n_bins: int) -> np.ndarray:
        calls.append(len(ends) - 1)
        return sketches_by_kernel(values, ends, maps, n_bins, device="cpu")

    for name, compute in (("plain", None), ("wired", counted)):
        monkeypatch.setattr(signing, "sketches_on_device", lambda compute=compute: compute)
        search = Search([str(tmp_path / "a.jsonl")], tmp_path / f"{name}.parquet", MinHashParameters(), index=tmp_path / name)
        deduplicate(search)
    assert sum(calls) == len(_texts())
    plain, wired = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "artifacts" / "dedup.signatures").glob("*/*.npy")}
        for name in ("plain", "wired")
    )
    assert plain == wired
    assert "bands.npy" in plain
    assert (tmp_path / "plain.parquet").read_bytes() == (tmp_path / "wired.parquet").read_bytes()


def test_without_a_gpu_torch_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a b c d e f"}\n' * 3)
    code = (
        "import sys; from tilth.cli.main import main\ntry:\n main(['dedup', 'a.jsonl', '-o', 'out.parquet'])\n"
        "except SystemExit as end:\n print(end.code, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TILTH_DEVICE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILTH_DEVICE", "cpu")
    assert sketches_on_device() is None
    monkeypatch.setenv("TILTH_DEVICE", "cude")
    with pytest.raises(BackendError, match="Did you mean `cuda`"):
        sketches_on_device()
    monkeypatch.setattr(sketch_device, "_torch_has_gpu", lambda: False)
    monkeypatch.setenv("TILTH_DEVICE", "cuda")
    with pytest.raises(BackendError, match="no GPU"):
        sketches_on_device()
    monkeypatch.setenv("TILTH_DEVICE", "auto")
    monkeypatch.setattr(sketch_device, "_may_have_gpu", lambda: True)
    assert sketches_on_device() is None
    monkeypatch.setattr(sketch_device, "_torch_has_gpu", lambda: True)
    given = sketches_on_device()
    assert isinstance(given, partial)
    assert (given.func, given.keywords) == (sketches_by_kernel, {"device": "cuda"})


@pytest.mark.gpu
def test_signatures_on_a_gpu_are_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("no GPU")
    monkeypatch.setenv("TILTH_DEVICE", "cuda")
    texts = pa.array(_texts(), pa.large_string())
    plain = sign(texts, texts, MinHashParameters())
    wired = signing.signer_of(MinHashParameters())(texts, texts)
    assert all(np.array_equal(one, two) for one, two in zip(plain[1:], wired[1:], strict=True))
