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

from tilth.deploy.choice import Choice
from tilth.deploy.delta import Delta, compress, decode
from tilth.deploy.delta_file import apply_delta, file_bytes, load_delta, save_delta
from tilth.deploy.signs import pack_signs
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
    delta = compress(base, tuned, Choice(tables="16"))
    path = tmp_path / "delta.safetensors"
    return SimpleNamespace(base=base, delta=delta, path=path, size=save_delta(path, delta, delta.base_digest))


def kinds(delta: Delta) -> dict[str, tuple[object, ...]]:
    return {name: (own.codec, own.shape, own.dtype) for name, own in delta.encoded.items()}


def assert_equal(a: Delta, b: Delta) -> None:
    assert (a.base_digest, a.tuned_digest) == (b.base_digest, b.tuned_digest)
    assert kinds(a) == kinds(b)
    assert weights_digest(a.tensors()) == weights_digest(b.tensors())


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
    assert small.size == small.path.stat().st_size == file_bytes(small.delta)
    assert world.path.stat().st_size == file_bytes(world.delta)
    assert_equal(load_delta(small.path), small.delta)
    assert_equal(load_delta(world.path), world.delta)


@pytest.mark.parametrize("words", ["bitdelta", "rank1", "residual:3", "low-rank:2", "whole"])
@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 6), k=st.integers(1, 70), seed=st.integers(0, 2**31), tables=st.sampled_from(["16", "8", "4", "1"]))
def test_any_shape_comes_back(
    tmp_path_factory: pytest.TempPathFactory, words: str, n: int, k: int, seed: int, tables: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"blocks.0.x.weight": (n, k), "head.weight": (k, n), "norm.weight": (n,)}
    base, tuned = ({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(2))
    delta = compress(base, tuned, Choice(words, tables=tables))
    path = tmp_path_factory.mktemp("any") / "delta.safetensors"
    save_delta(path, delta, delta.base_digest)
    loaded = load_delta(path)
    assert_equal(loaded, delta)
    assert weights_digest(decode(loaded, base)) == weights_digest(decode(delta, base))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    base, tuned = ({name: tensor.to(dtype) for name, tensor in state.items()} for state in small_states())
    delta = compress(base, tuned)
    save_delta(tmp_path / "delta.safetensors", delta, delta.base_digest)
    loaded = load_delta(tmp_path / "delta.safetensors")
    assert_equal(loaded, delta)
    assert {own.dtype for own in loaded.encoded.values()} == {dtype}


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
        matrix = {f"{NAME}:{part}" for part in ("signs", "scale", "row_scale", "column_scale")}
        assert set(file.keys()) == matrix | {"embedding.weight:rows", "embedding.weight:difference", "norm.weight:values"}
        assert file.get_tensor(f"{NAME}:signs").shape == (2, 3)
        metadata = file.metadata()
    assert json.loads(metadata["tensors"]) == {
        NAME: ["rank1", "F32", [3, 40]],
        "embedding.weight": ["rows", "F32", [6, 5]],
        "norm.weight": ["whole", "F32", [5]],
    }
    assert json.loads(metadata["codecs"]) == {"rank1": 1, "rows": 1, "whole": 1}
    assert metadata["contract"] == "delta/2"


def test_saving_for_another_base_is_refused(small: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(DeltaError, match="another base"):
        save_delta(tmp_path / "x.safetensors", small.delta, "0" * 64)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_saving_a_scale_that_is_not_finite_is_refused(small: SimpleNamespace, tmp_path: Path, scale: float) -> None:
    own = small.delta.encoded[NAME]
    broken = {NAME: replace(own, parts=own.parts | {"scale": torch.tensor(scale)})}
    with pytest.raises(DeltaError, match="scale that is not finite"):
        save_delta(tmp_path / "x.safetensors", replace(small.delta, encoded=broken), small.delta.base_digest)
    assert not list(tmp_path.glob("*x.safetensors*"))


def test_a_flipped_bit_of_any_byte_is_found(small: SimpleNamespace) -> None:
    data = small.path.read_bytes()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
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
    assert "not a file of the contract delta/2" in refusal(tmp_path / "model.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert "not a file of the contract delta/2" in refusal(tmp_path / "model.safetensors")


def test_metadata_without_its_checksum_is_refused(small: SimpleNamespace) -> None:
    rewrite(small.path, lambda metadata, _: metadata.update(tuned_digest="0" * 64), sign=False)
    assert "metadata does not have its own checksum" in refusal(small.path)


def tensors_metadata(change: Callable[[dict[str, list[object]]], object]) -> Callable[[Metadata, Tensors], object]:
    """A forgery of what the file says of its tensors."""

    def forge(metadata: Metadata, tensors: Tensors) -> None:
        found = json.loads(metadata["tensors"])
        change(found)
        metadata["tensors"] = json.dumps(found)

    return forge


FORGERIES: dict[str, tuple[Callable[[Metadata, Tensors], object], str]] = {
    "codec": (lambda m, t: m.update(codecs='{"gptq":1}'), "no codec is called 'gptq'"),
    "codec of a tensor": (tensors_metadata(lambda d: d[NAME].__setitem__(0, "gptq")), "without a version"),
    "another codec": (tensors_metadata(lambda d: d[NAME].__setitem__(0, "whole")), "has the parts"),
    "version": (lambda m, t: m.update(codecs='{"rank1":2}'), "made by version 2"),
    "version word": (lambda m, t: m.update(codecs='{"rank1":"one"}'), "made by version one"),
    "no codecs": (lambda m, t: m.update(codecs="{}"), "without a version"),
    "codecs list": (lambda m, t: m.update(codecs="[]"), "metadata cannot be read"),
    "contract": (lambda m, t: m.update(contract="delta/3"), "not a file of the contract delta/2"),
    "no digest": (lambda m, t: m.pop("base_digest"), "damaged"),
    "one more field": (lambda m, t: m.update(more=""), "damaged"),
    "tensors list": (lambda m, t: m.update(tensors="[]"), "metadata cannot be read"),
    "tensors text": (lambda m, t: m.update(tensors="{"), "metadata cannot be read"),
    "tensors twice": (lambda m, t: m.update(tensors='{"a":["whole","F32",[1]],"a":["whole","F32",[1]]}'), "stands in it twice"),
    "nested": (lambda m, t: m.update(tensors="[" * 100_000 + "]" * 100_000), "nested too deeply"),
    "shape": (tensors_metadata(lambda d: d[NAME].__setitem__(2, [3, 72])), "instead of int32 (3, 3)"),
    "negative shape": (tensors_metadata(lambda d: d[NAME].__setitem__(2, [-3, -40])), "no matrix's"),
    "shape of words": (tensors_metadata(lambda d: d[NAME].__setitem__(2, ["a"])), "metadata cannot be read"),
    "huge shape": (tensors_metadata(lambda d: d[NAME].__setitem__(2, [3, 10**30])), "instead of int32"),
    "dtype": (tensors_metadata(lambda d: d["norm.weight"].__setitem__(1, "F16")), "instead of float16 (5,)"),
    "no dtype": (tensors_metadata(lambda d: d["norm.weight"].__setitem__(1, None)), "does not say its type"),
    "dtype word": (tensors_metadata(lambda d: d["norm.weight"].__setitem__(1, "F12")), "metadata cannot be read"),
    "no shape": (lambda m, t: m.update(tensors="{}"), "does not say the shape"),
    "nan scale": (lambda m, t: t[f"{NAME}:scale"].fill_(float("nan")), "scale that is not finite"),
    "inf scale": (lambda m, t: t[f"{NAME}:row_scale"].fill_(float("inf")), "row_scale that is not finite"),
    "nan difference": (lambda m, t: t["embedding.weight:difference"].fill_(float("nan")), "not finite"),
    "wide difference": (
        lambda m, t: t.update({"embedding.weight:difference": t["embedding.weight:difference"].float()}),
        "instead of bfloat16",
    ),
    "rows that fall": (lambda m, t: t["embedding.weight:rows"].fill_(3), "do not rise"),
    "nan whole": (lambda m, t: t["norm.weight:values"].fill_(float("nan")), "not finite"),
    "missing signs": (lambda m, t: t.pop(f"{NAME}:signs"), "has the parts"),
    "missing scale": (lambda m, t: t.pop(f"{NAME}:scale"), "has the parts"),
    "unknown part": (lambda m, t: t.update({f"{NAME}:zero": torch.zeros(1)}), "has the parts"),
    "no part": (lambda m, t: t.update(loose=torch.zeros(1)), "does not say the shape"),
    "padding bits": (lambda m, t: t[f"{NAME}:signs"].fill_(-1), "past its last input"),
    "wide scale": (lambda m, t: t.update({f"{NAME}:scale": torch.zeros(2)}), "instead of float32 ()"),
    "a name that climbs": (lambda m, t: t.update({"../../x:values": torch.zeros(1)}), "is no name of a tensor"),
    "an absolute name": (lambda m, t: t.update({"/etc/x:values": torch.zeros(1)}), "is no name of a tensor"),
    "a name with dots": (lambda m, t: t.update({"a..b:values": torch.zeros(1)}), "is no name of a tensor"),
    "no name": (lambda m, t: t.update({"": torch.zeros(1)}), "is no name of a tensor"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_files_with_fitting_checksums_are_refused(small: SimpleNamespace, forgery: str) -> None:
    change, words = FORGERIES[forgery]
    rewrite(small.path, change)
    assert words in refusal(small.path)


def test_a_missing_tensor_is_named(small: SimpleNamespace) -> None:
    rewrite(small.path, lambda _, tensors: tensors.pop("norm.weight:values"), sign=False)
    assert "tensors are missing or were added: norm.weight:values" in refusal(small.path)


def test_an_honest_rewrite_is_accepted(small: SimpleNamespace) -> None:
    # guards the forgeries above: they are refused for what they change, not for having been rewritten
    rewrite(small.path, lambda metadata, tensors: None)
    assert_equal(load_delta(small.path), small.delta)


def header_of(data: bytes) -> tuple[bytes, bytes]:
    n_header = int.from_bytes(data[:8], "little")
    return data[8 : 8 + n_header], data[8 + n_header :]


def test_a_key_that_stands_twice_in_the_header_is_refused(small: SimpleNamespace) -> None:
    header, body = header_of(small.path.read_bytes())
    entry = b'"norm.weight:values":{'
    assert header.count(entry) == 1
    start = header.index(entry)
    again = header[start : header.index(b"}", start) + 1]
    header = header.replace(again, again + b"," + again)
    small.path.write_bytes(len(header).to_bytes(8, "little") + header + body)
    assert "'norm.weight:values' stands in it twice" in refusal(small.path)


@pytest.mark.parametrize("n_bytes", [(16 << 20) + 1, 1 << 40, (1 << 64) - 1])
def test_an_enormous_header_is_refused_before_it_is_read(small: SimpleNamespace, n_bytes: int) -> None:
    small.path.write_bytes(n_bytes.to_bytes(8, "little") + small.path.read_bytes()[8:])
    assert "at most 16,777,216 are read" in refusal(small.path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_damage_to_a_real_delta_is_found(
    world: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(world.path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    if bytes(damaged) == world.path.read_bytes():
        return
    path = tmp_path_factory.mktemp("damage") / "delta.safetensors"
    path.write_bytes(damaged)
    refusal(path)


GROWTH = """
import resource, sys
from pathlib import Path
import torch
from tilth.deploy.choice import Choice
from tilth.deploy.delta import compress
from tilth.deploy.delta_file import save_delta

base = {f"blocks.{i}.x.weight": torch.zeros(4096, 4096) for i in range(2)}
delta = compress(base, {name: tensor + 1 for name, tensor in base.items()}, Choice("whole"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n_bytes = save_delta(Path(sys.argv[1]), delta, delta.base_digest)
print(n_bytes, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_writing_holds_no_second_copy(tmp_path: Path) -> None:
    # a process of its own: a peak that an earlier test reached would hide this one
    ran = subprocess.run([sys.executable, "-c", GROWTH, tmp_path / "x.safetensors"], check=True, capture_output=True, text=True)
    n_bytes, grown = map(int, ran.stdout.split())
    assert n_bytes > 2 * 4 * 4096**2
    assert grown < 0.25 * n_bytes


def write_delta_1(path: Path, base: Tensors, tuned: Tensors) -> None:
    """As Tilth wrote deltas before delta/2: its documented form, made by the safetensors library alone."""
    difference = tuned[NAME] - base[NAME]
    tensors = {
        f"{NAME}:signs": pack_signs(difference),
        f"{NAME}:scale": difference.abs().mean(dtype=torch.float64).float(),
        "embedding.weight:difference": (tuned["embedding.weight"] - base["embedding.weight"]).bfloat16(),
        "norm.weight:whole": tuned["norm.weight"],
    }
    metadata = {"contract": "delta/1", "codec": "bitdelta", "version": "1", "shapes": json.dumps({NAME: [3, 40]})}
    metadata |= {"base_digest": weights_digest(base), "tuned_digest": weights_digest(tuned), "checksum": ""}
    save_file(tensors, path, metadata)
    rewrite(path, lambda m, t: None)


def test_delta_1_is_read(tmp_path: Path) -> None:
    base, tuned = small_states()
    path = tmp_path / "delta.safetensors"
    write_delta_1(path, base, tuned)
    delta = load_delta(path)
    rebuilt = decode(delta, base)
    difference = tuned[NAME] - base[NAME]
    wanted = base[NAME] + difference.abs().mean(dtype=torch.float64).float() * torch.where(difference >= 0, 1.0, -1.0)
    assert torch.equal(rebuilt[NAME], wanted)
    rounded = (tuned["embedding.weight"] - base["embedding.weight"]).bfloat16().float()
    assert torch.equal(rebuilt["embedding.weight"], base["embedding.weight"] + rounded)
    assert torch.equal(rebuilt["norm.weight"], tuned["norm.weight"])
    # written again it is delta/2, with the same meaning
    save_delta(tmp_path / "again.safetensors", delta, delta.base_digest)
    assert_equal(load_delta(tmp_path / "again.safetensors"), delta)


@pytest.mark.parametrize("forgery", ["shapes", "version", "scale", "codec"])
def test_delta_1_is_checked_as_well(tmp_path: Path, forgery: str) -> None:
    base, tuned = small_states()
    path = tmp_path / "delta.safetensors"
    write_delta_1(path, base, tuned)
    changes: dict[str, Callable[[Metadata, Tensors], object]] = {
        "shapes": lambda m, t: m.update(shapes="{}"),
        "version": lambda m, t: m.update(version="2"),
        "scale": lambda m, t: t[f"{NAME}:scale"].fill_(float("nan")),
        "codec": lambda m, t: m.update(codec="gptq"),
    }
    rewrite(path, changes[forgery])
    refusal(path)


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
