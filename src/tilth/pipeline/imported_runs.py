"""A checkpoint of another program as a run of the project: others can begin from it, learn from it, and it can be served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilth.artifacts import Named, Spec, Store
from tilth.artifacts.naming import check_name
from tilth.errors import RecipeError, SourceError
from tilth.pipeline.foreign_models import CONFIG_FILE, Converted, read_foreign, write_imported
from tilth.pipeline.foreign_tokenizer import FILES
from tilth.pipeline.project import Project
from tilth.tokenize.bpe import Tokenizer

IMPORT_VERSION = 1
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")


def import_run(project: Project, name: str, source: Path) -> tuple[Named, Converted | None]:
    """The checkpoint in the folder `source` as `run/<name>`, and what was written: nothing where it was there already.

    It is known by the bytes of its files, wherever they lie. Raises RecipeError for a word that cannot be a name, or is that
    of a run that was trained here; SourceError without a tokenizer.json; and what `read_foreign` raises.
    """
    from tilth.catalog.publish import publish

    store = project.store
    check_name(name)
    _refuse_trained(store, name)
    _check_tokenizer(source)
    spec = Spec("train", IMPORT_VERSION, {"imported": True}, dict(_digests(source)), {})
    written: list[Converted] = []

    def write(folder: Path) -> dict[str, Any]:
        model, converted = read_foreign(source)
        written.append(replace(converted, folder=folder, tokenizer_files=write_imported(folder, source, model)))
        _write_no_losses(folder)
        config = written[0].config
        facts = {"layers": config.layers, "n_parameters": config.n_parameters(), "vocab_size": config.vocab_size}
        return {"imported": written[0].format, **facts, "dtypes": ", ".join(written[0].dtypes)}

    made = store.make(spec, write)
    named = store.save_named("run", name, [made.part()], dict(made.stats))
    publish(store)
    return named, written[0] if written else None


def _refuse_trained(store: Store, name: str) -> None:
    """A name that others may begin from is not turned into another model by the way."""
    known = store.find_named("run", name)
    if known is not None and "imported" not in known.meta:
        raise RecipeError(f"there is a run `{name}`, which was trained here", known.label, "Give the import another name.")


def _check_tokenizer(source: Path) -> None:
    if not (source / CONFIG_FILE).is_file():
        return  # says `import_model`, with what it wants
    file = source / "tokenizer.json"
    if not file.is_file():
        fix = "Copy the tokenizer.json that the model was published with into the folder."
        raise SourceError("the checkpoint has no tokenizer.json, so no text becomes its tokens", str(source), fix)
    Tokenizer.open(file)  # refuses what is no tokenizer, or has no separator


def _digests(source: Path) -> Iterator[tuple[str, str]]:
    """Names and sha256 of the files that a checkpoint is read from."""
    from tilth.corpus.records import fingerprint

    names = {CONFIG_FILE, "mamba_config.json", *FILES}
    found = {path for pattern in _WEIGHTS for path in source.glob(pattern)} | {source / name for name in names}
    for path in sorted(found):
        if path.is_file():
            yield path.name, fingerprint(path)


def _write_no_losses(folder: Path) -> None:
    """The table of losses that every run has: no step was taken here."""
    from tilth.contracts import LOSSES
    from tilth.pipeline.parquet import write_table

    write_table(folder / "losses.parquet", LOSSES.schema.empty_table(), LOSSES)
