"""Checkpoints of other programs become models of ours, and models of ours become folders that HF transformers loads."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tilth.artifacts.atomic import disk_errors
from tilth.errors import ContractError, NotFoundError, RecipeError, SourceError
from tilth.models.config import ModelConfig
from tilth.models.convert.parts import Format, Rule
from tilth.models.convert.registry import choose_export, recognise
from tilth.models.decoder import Decoder, mark_parameters
from tilth.models.weights import load_model, save_model
from tilth.pipeline.foreign_tokenizer import copy_tokenizer, token_settings, write_tokenizer_config
from tilth.pipeline.foreign_weights import ForeignWeights

CONFIG_FILE, SOURCE_CONFIG_FILE = "config.json", "source_config.json"
MAX_SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Converted:
    """What was written: the format read or written, the model's config, its dtypes and the tokenizer files beside it."""

    folder: Path
    format: str
    config: ModelConfig
    dtypes: list[str]
    tokenizer_files: list[str] = field(default_factory=list)


def import_model(source: Path, out: Path) -> Converted:
    """Write the checkpoint in `source` to `out`, where `tilth.load_model` reads it; dtypes stay, tensor by tensor.

    Raises SourceError for what no model here can be, NotFoundError and ContractError for what is missing or damaged,
    always before anything is written.
    """
    model, converted = read_foreign(source)
    with _new_folder(out) as folder:
        copied = write_imported(folder, source, model)
    return replace(converted, folder=out, tokenizer_files=copied)


def read_foreign(source: Path) -> tuple[Decoder, Converted]:
    """The model of the checkpoint in `source`, and what it was read as. Raises as `import_model`."""
    settings = _read_settings(source)
    form = recognise(settings)
    try:
        config = form.read_config(settings)
    except RecipeError as error:
        raise SourceError(
            f"the checkpoint's config makes no model: {error.what}", str(source / CONFIG_FILE), error.fix
        ) from error
    model = _read_model(ForeignWeights(source), form, config, settings)
    return model, Converted(source, form.title, config, _dtypes(model))


def write_imported(folder: Path, source: Path, model: Decoder) -> list[str]:
    """Write into an empty `folder` the model and what of `source` stays beside it; returns the names of the tokenizer's files."""
    copied = copy_tokenizer(source, folder)
    (folder / SOURCE_CONFIG_FILE).write_bytes((source / CONFIG_FILE).read_bytes())
    save_model(folder, model)
    return copied


def export_model(checkpoint: Path, out: Path, context: int | None = None) -> Converted:
    """Write the model folder `checkpoint` to `out` as the HF class that computes the same, with its tokenizer.

    context is the longest text in tokens that the config promises; by default that of the tokenizer or of the checkpoint
    that was imported. Raises SourceError where no HF class computes the same, and what load_model raises.
    """
    model = load_model(checkpoint)
    form, settings = choose_export(model.config)
    with _new_folder(out) as folder:
        copied = copy_tokenizer(checkpoint, folder)
        source = checkpoint / SOURCE_CONFIG_FILE
        tokens = token_settings(folder, json.loads(source.read_text()) if source.is_file() else {}, context)
        tokens["use_cache"] = settings.get("use_cache", True)
        copied = sorted({*copied, *write_tokenizer_config(folder, tokens)})
        _write_weights(folder, model.state_dict(), form.rules(model.config, settings))
        dtypes = _dtypes(model)
        text = json.dumps({**settings, **tokens, "dtype": dtypes[0], "torch_dtype": dtypes[0]}, indent=2)
        (folder / CONFIG_FILE).write_text(text + "\n")
    return Converted(out, form.title, model.config, dtypes, copied)


def _read_settings(source: Path) -> dict[str, Any]:
    """config.json; of MambaInLlama also its second config, under the key `mamba_config`."""
    if not source.is_dir():
        raise NotFoundError("there is no such folder", str(source), "name the folder that holds config.json and the weights")
    found: dict[str, Any] = {}
    for name, key in ((CONFIG_FILE, None), ("mamba_config.json", "mamba_config")):
        path = source / name
        if not path.is_file():
            if key is None:
                raise NotFoundError(
                    "there is no config.json, so this is no checkpoint", str(source), "name the folder that holds it"
                )
            continue
        try:
            values = json.loads(path.read_text(encoding="utf-8"), object_hook=_plain_float)
        except ValueError as error:
            raise ContractError(f"the config is not JSON: {error}", str(path), "copy the file again") from error
        if not isinstance(values, dict):
            raise ContractError("the config is not a mapping of settings", str(path), "copy the file again")
        found |= {key: values} if key else values
    return found


def _plain_float(values: dict[str, Any]) -> Any:
    # how transformers 5 writes infinity
    return float(values["__float__"]) if values.keys() == {"__float__"} else values


def _read_model(weights: ForeignWeights, form: Format, config: ModelConfig, settings: dict[str, Any]) -> Decoder:
    with torch.device("meta"):
        model = Decoder(config)
    expected, rules = model.state_dict(), form.rules(config, settings)
    _check_names(weights, rules, form)
    found: dict[str, Tensor] = {}
    for rule in rules:
        whole = expected[rule.ours]
        parts = [weights.read(name, like) for name, like in zip(rule.theirs, rule.write(whole), strict=True)]
        zeros = torch.zeros(whole.shape, dtype=found["embedding.weight"].dtype) if not parts else None
        found[rule.ours] = rule.read(*parts).contiguous() if zeros is None else zeros
    model.load_state_dict(found, assign=True)
    mark_parameters(model)
    return model


def _check_names(weights: ForeignWeights, rules: Iterable[Rule], form: Format) -> None:
    wanted = {rule.ours: rule.theirs for rule in rules}
    names = {name for theirs in wanted.values() for name in theirs}
    if missing := sorted(names - weights.names):
        raise ContractError(
            f"the checkpoint lacks {_list(missing)}", fix="copy all its files, and the config.json that came with them"
        )
    for name in sorted(weights.names - names):
        # a head that the config ties is often saved all the same
        original = wanted["embedding.weight"][0] if name.endswith("lm_head.weight") else re.sub(*form.copies, name)
        if original != name and original in names and torch.equal(weights.read(name), weights.read(original)):
            continue
        if not re.fullmatch(form.ignored, name):
            fix = "a bias, a tied tensor with values of its own, or another architecture: Tilth would compute something else"
            raise ContractError("the config has no place for a tensor of the checkpoint", name, fix)


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _write_weights(folder: Path, state: dict[str, Tensor], rules: Iterable[Rule]) -> None:
    tensors = {name: part for rule in rules for name, part in zip(rule.theirs, rule.write(state[rule.ours]), strict=True)}
    shards: list[list[str]] = [[]]
    room = MAX_SHARD_BYTES
    for name, tensor in tensors.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append([])
            room = MAX_SHARD_BYTES
        shards[-1].append(name)
        room -= tensor.nbytes
    files = {f"model-{i:05d}-of-{len(shards):05d}.safetensors": names for i, names in enumerate(shards, 1)}
    if len(shards) == 1:
        files = {"model.safetensors": shards[0]}
    for file, names in files.items():
        # cloned: parts of one tensor share its memory, which the format has no way to say
        save_file(
            {name: tensors[name].clone(memory_format=torch.contiguous_format) for name in names}, folder / file, {"format": "pt"}
        )
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": {name: file for file, names in files.items() for name in names}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _dtypes(model: Decoder) -> list[str]:
    """Those of all tensors, the embedding's first."""
    return list(dict.fromkeys(str(tensor.dtype).removeprefix("torch.") for tensor in model.state_dict().values()))


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` once it is complete. Raises SourceError if there is something in `out`."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SourceError("there is something already", str(out), "name a folder that does not exist yet, or is empty")
    partial = out.absolute().with_name(f".{out.absolute().name}.partial")
    with disk_errors(out):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            if out.exists():
                out.rmdir()
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def find_checkpoint(name: str) -> tuple[Path, int | None]:
    """The model folder that `name` is, or that of the run of this name in the project here, with its length of sequences.

    Raises NotFoundError.
    """
    from tilth.pipeline.project import Project

    folder = Path(name)
    if (folder / CONFIG_FILE).is_file():
        return folder, None
    try:
        store = Project.find().store
        run = store.get_named("run", name)
    except NotFoundError as error:
        if folder.is_dir():
            fix = "name a run, or the folder of a model (with config.json and model.safetensors)"
            raise NotFoundError("the folder holds no model", str(folder), fix) from error
        raise
    return store.artifact(run.one("train")).path, run.meta.get("seq_len")
