"""The file: exact bytes back, the same bytes every time, and a refusal for everything that is not what was written."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tilth.deploy.codec import Delta, Encoded, compress, decode
from tilth.deploy.delta_file import apply_delta, load_delta, save_delta
from tilth.errors import DeltaError, NotFoundError
from tilth.models.weights import load_model, save_model, weights_digest

Metadata = dict[str, str]
Tensors = dict[str, Tensor]
NAME = "blocks.0.mlp.out_proj.weight"


def small_states() -> tuple[Tensors, Tensors]:
    generator = torch.Generator().manual_seed(3)
    shapes = {NAME: (3, 40), "embedding.weight": (6, 5), "norm.weight": (5,)}
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return base, {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}


@pytest.fixture
def small(tmp_path: Path) -> SimpleNamespace:
    base, tuned = small_states()
    delta = compress(base, tuned)
    path = tmp_path / "delta.safetensors"
    return SimpleNamespace(base=base, delta=delta, path=path, size=save_delta(path, delta, delta.base_digest))


def assert_equal(a: Delta, b: Delta) -> None:
    assert (a.codec, a.version, a.base_digest, a.tuned_digest) == (b.codec, b.version, b.base_digest, b.tuned_digest)
    assert {n: m.shape for n, m in a.encoded.items()} == {n: m.shape for n, m in b.encoded.items()}
    assert a.rounded.keys() == b.rounded.keys()
    tensors = [d.whole | d.rounded | {f"{n}:{p}": t for n, m in d.encoded.items() for p, t in m.parts.items()} for d in (a, b)]
    assert weights_digest(tensors[0]) == weights_digest(tensors[1])


def rewrite(path: Path, change: Callable[[Metadata, Tensors], object], *, sign: bool = True) -> None:
    """Change a delta file as a forger would who knows the format: with checksums that fit, unless sign is False."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    change(metadata, tensors)
    if sign:
        checksums = {name: weights_digest({name: tensor})[:16] for name, tensor in tensors.items()}
        metadata["checksums"] = json.dumps(checksums, sort_keys=True, separators=(",", ":"))
        metadata.pop("checksum")
        text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
        metadata["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    save_file(tensors, path, metadata)


def refusal(path: Path) -> str:
    with pytest.raises(DeltaError) as caught:
        load_delta(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 3
    return message


def test_the_round_trip_is_bit_exact(small: SimpleNamespace, world: SimpleNamespace) -> None:
    assert small.size == small.path.stat().st_size
    assert_equal(load_delta(small.path), small.delta)
    assert_equal(load_delta(world.path), world.delta)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 70), st.integers(0, 2**31))
def test_any_shape_comes_back(tmp_path_factory: pytest.TempPathFactory, n: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = {"blocks.0.x.weight": torch.randn(n, k, generator=generator)}
    delta = compress(base, {"blocks.0.x.weight": torch.randn(n, k, generator=generator)})
    path = tmp_path_factory.mktemp("any") / "delta.safetensors"
    save_delta(path, delta, delta.base_digest)
    loaded = load_delta(path)
    assert_equal(loaded, delta)
    assert weights_digest(decode(loaded, base)) == weights_digest(decode(delta, base))


def test_the_bytes_are_the_same_in_another_process(small: SimpleNamespace, tmp_path: Path) -> None:
    # the safetensors library orders metadata by a hash map seeded anew for each file
    data = small.path.read_bytes()
    for _ in range(5):
        save_delta(tmp_path / "again.safetensors", small.delta, small.delta.base_digest)
        assert (tmp_path / "again.safetensors").read_bytes() == data
    script = (
        "import sys; from pathlib import Path; from tilth.deploy.delta_file import load_delta, save_delta;"
        "delta = load_delta(Path(sys.argv[1])); save_delta(Path(sys.argv[2]), delta, delta.base_digest)"
    )
    subprocess.run([sys.executable, "-c", script, small.path, tmp_path / "other.safetensors"], check=True)
    assert (tmp_path / "other.safetensors").read_bytes() == data


def test_plain_safetensors_reads_the_file(small: SimpleNamespace) -> None:
    with safe_open(small.path, framework="np") as file:
        assert set(file.keys()) == {f"{NAME}:signs", f"{NAME}:scale", "embedding.weight:difference", "norm.weight:whole"}
        assert file.get_tensor(f"{NAME}:signs").shape == (2, 3)
        assert json.loads(file.metadata()["shapes"]) == {NAME: [3, 40]}
        assert file.metadata()["contract"] == "delta/1"


def test_saving_for_another_base_is_refused(small: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(DeltaError, match="another base"):
        save_delta(tmp_path / "x.safetensors", small.delta, "0" * 64)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_saving_a_scale_that_is_not_finite_is_refused(small: SimpleNamespace, tmp_path: Path, scale: float) -> None:
    matrix = small.delta.encoded[NAME]
    broken = {NAME: Encoded(matrix.shape, matrix.parts | {"scale": torch.tensor(scale)})}
    with pytest.raises(DeltaError, match="has the scale"):
        save_delta(tmp_path / "x.safetensors", replace(small.delta, encoded=broken), small.delta.base_digest)


def test_every_flipped_bit_is_found(small: SimpleNamespace) -> None:
    data = small.path.read_bytes()
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            small.path.write_bytes(flipped)
            with pytest.raises(DeltaError):
                load_delta(small.path)


def test_every_truncation_is_found(small: SimpleNamespace) -> None:
    data = small.path.read_bytes()
    for n_bytes in range(len(data)):
        small.path.write_bytes(data[:n_bytes])
        with pytest.raises(DeltaError):
            load_delta(small.path)
    small.path.write_bytes(data + b"\0")
    assert "damaged" in refusal(small.path)


def test_no_file_is_a_clear_error(tmp_path: Path) -> None:
    assert "there is no delta file" in refusal(tmp_path / "nothing.safetensors")
    assert "there is no delta file" in refusal(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert "not a file of the contract delta/1" in refusal(tmp_path / "model.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert "not a file of the contract delta/1" in refusal(tmp_path / "model.safetensors")


def test_metadata_without_its_checksum_is_refused(small: SimpleNamespace) -> None:
    rewrite(small.path, lambda metadata, _: metadata.update(tuned_digest="0" * 64), sign=False)
    assert "metadata does not have its own checksum" in refusal(small.path)


FORGERIES: dict[str, tuple[Callable[[Metadata, Tensors], object], str]] = {
    "codec": (lambda m, t: m.update(codec="gptq"), "no codec is called 'gptq'"),
    "version": (lambda m, t: m.update(version="2"), "made by version 2"),
    "version word": (lambda m, t: m.update(version="one"), "metadata cannot be read"),
    "contract": (lambda m, t: m.update(contract="delta/2"), "not a file of the contract delta/1"),
    "no digest": (lambda m, t: m.pop("base_digest"), "damaged"),
    "shapes list": (lambda m, t: m.update(shapes="[]"), "metadata cannot be read"),
    "shapes text": (lambda m, t: m.update(shapes="{"), "metadata cannot be read"),
    "shape": (lambda m, t: m.update(shapes=json.dumps({NAME: [3, 72]})), r"instead of int32 (3, 3)"),
    "negative shape": (lambda m, t: m.update(shapes=json.dumps({NAME: [-3, -40]})), "instead of int32"),
    "no shape": (lambda m, t: m.update(shapes="{}"), "does not say the shape"),
    "nan scale": (lambda m, t: t[f"{NAME}:scale"].fill_(float("nan")), "scale nan"),
    "inf scale": (lambda m, t: t[f"{NAME}:scale"].fill_(float("inf")), "scale inf"),
    "nan difference": (lambda m, t: t["embedding.weight:difference"].fill_(float("nan")), "not finite"),
    "wide difference": (
        lambda m, t: t.update({"embedding.weight:difference": t["embedding.weight:difference"].float()}),
        "instead of torch.bfloat16",
    ),
    "nan whole": (lambda m, t: t["norm.weight:whole"].fill_(float("nan")), "not finite"),
    "missing signs": (lambda m, t: t.pop(f"{NAME}:signs"), "has the parts ['scale']"),
    "missing scale": (lambda m, t: t.pop(f"{NAME}:scale"), "has the parts ['signs']"),
    "unknown part": (lambda m, t: t.update({f"{NAME}:zero": torch.zeros(1)}), "has the parts"),
    "no part": (lambda m, t: t.update(loose=torch.zeros(1)), "does not say the shape"),
    "padding bits": (lambda m, t: t[f"{NAME}:signs"].fill_(-1), "past its last input"),
    "wide scale": (lambda m, t: t.update({f"{NAME}:scale": torch.zeros(2)}), "one fp32 number"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_files_with_fitting_checksums_are_refused(small: SimpleNamespace, forgery: str) -> None:
    change, words = FORGERIES[forgery]
    rewrite(small.path, change)
    assert words in refusal(small.path)


def test_a_missing_tensor_is_named(small: SimpleNamespace) -> None:
    rewrite(small.path, lambda _, tensors: tensors.pop("norm.weight:whole"), sign=False)
    assert "tensors are missing or were added: norm.weight:whole" in refusal(small.path)


def test_an_honest_rewrite_is_accepted(small: SimpleNamespace) -> None:
    # guards the forgeries above: they are refused for what they change, not for having been rewritten
    rewrite(small.path, lambda metadata, tensors: None)
    assert_equal(load_delta(small.path), small.delta)


def test_apply_gives_the_decoded_model(world: SimpleNamespace) -> None:
    model = apply_delta(world.path, world.base)
    assert weights_digest(model.state_dict()) == weights_digest(decode(world.delta, world.base_state))
    assert torch.equal(model.norm.weight, world.tuned_state["norm.weight"])


def test_apply_refuses_another_base(world: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(DeltaError, match="made for another base"):
        apply_delta(world.path, world.tuned)
    nearly = load_model(world.base)
    with torch.no_grad():
        nearly.norm.weight[0] += 1e-6
    save_model(tmp_path / "nearly", nearly)
    with pytest.raises(DeltaError, match="made for another base"):
        apply_delta(world.path, tmp_path / "nearly")
    with pytest.raises(NotFoundError):
        apply_delta(world.path, tmp_path / "nowhere")
