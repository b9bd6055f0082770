"""import-hf, export-hf: models of other programs, and models for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tilth.cli.tables import as_json, record, say, size

if TYPE_CHECKING:
    from tilth.pipeline.foreign_models import Converted


@click.command("import-hf")
@click.argument("source", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--run", metavar="NAME", help="Make it a run of this project, instead of a folder OUT.")
@click.option("--json", "as_data", is_flag=True, help="The facts as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def import_hf(source: Path, out: Path | None, run: str | None, as_data: bool, debug: bool) -> None:
    """Make a model of the checkpoint in DIR.

    Reads HF's Llama, Mamba, Mamba-2, Bamba and Granite hybrids, and what state-spaces/mamba, MambaInLlama, Llamba and
    Caduceus save. OUT is a new folder that `tilth.load_model` reads; the tokenizer's files come with it. With --run it is a
    run of the project: `Train(initial=NAME)` begins from it, `tilth serve NAME` serves it.
    """
    from tilth.errors import UserError
    from tilth.pipeline.foreign_models import import_model

    if (out is None) == (run is None):
        raise UserError("the model becomes either a folder or a run", "import-hf", "Give OUT, or `--run NAME`, and not both.")
    if out is not None:
        _tell(import_model(source, out), "read as", as_data)
        return
    from tilth.pipeline.imported_runs import import_run
    from tilth.pipeline.project import Project

    named, made = import_run(Project.find(), str(run), source)
    if made is not None:
        _tell(made, "read as", as_data, {"run": named.label})
    elif as_data:
        print(as_json({"run": named.label, **named.meta}))
    else:
        say(f"{named.label} is up to date")


@click.command("export-hf")
@click.argument("checkpoint")
@click.argument("out", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--context", type=click.IntRange(min=1), help="Longest text in tokens that the config promises.")
@click.option("--json", "as_data", is_flag=True, help="The facts as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def export_hf(checkpoint: str, out: Path, context: int | None, as_data: bool, debug: bool) -> None:
    """Write a model for HF transformers.

    CHECKPOINT is a run of this project or the folder of a model. DIR is a new folder that `AutoModelForCausalLM` and
    `AutoTokenizer` load without code of ours; a model that no class there can express is refused with the reason.
    """
    from tilth.pipeline.foreign_models import export_model, find_checkpoint

    folder, seq_len = find_checkpoint(checkpoint)
    _tell(export_model(folder, out, context or seq_len), "written as", as_data)


@click.command("import-delta")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("out", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--base", required=True, help="The run or model folder, imported from what it was made for.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def import_delta(source: Path, out: Path, base: str, debug: bool) -> None:
    """Make a delta of a LoRA or of BitDelta's file.

    SOURCE is the folder of an adapter that PEFT saved, or a diff.pt, of a Llama that `tilth import-hf` has read. FILE is what
    `tilth serve --delta NAME=FILE` serves.
    """
    from tilth.deploy.adapter import import_adapter
    from tilth.deploy.delta_file import save_delta
    from tilth.deploy.published import read_published
    from tilth.pipeline.foreign_models import find_checkpoint

    folder, _ = find_checkpoint(base)
    delta = import_adapter(source, folder) if source.is_dir() else read_published(source, folder)
    n_bytes = save_delta(out, delta, delta.base_digest)
    codecs = sorted({matrix.codec for matrix in delta.encoded.values()})
    print(record({"delta": str(out), "codec": ", ".join(codecs), "matrices": len(delta.encoded), "size": size(n_bytes)}))


def _tell(made: Converted, how: str, as_data: bool, place: Mapping[str, str] | None = None) -> None:
    facts = {
        **(place or {"folder": str(made.folder)}),
        how: made.format,
        "layers": made.config.layers,
        "parameters": made.config.n_parameters(),
        "dtype": ", ".join(made.dtypes),
        "tokenizer files": ", ".join(made.tokenizer_files) or "none",
    }
    print(as_json(facts) if as_data else record(facts))
