"""What a teacher said of the sequences of a run, on disk: a folder with a file of log p for each step, in fp16.

<folder>/teacher_logits.json        what was said by whom of what; last, so a folder that has it is whole
<folder>/step-00000007.log_p.npy    (sequences of the step, tokens, V), or (..., k + 1): the k likeliest and all the rest
<folder>/step-00000007.ids.npy      (..., k): which ids these are
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from tilth.artifacts.atomic import write_atomically, written_atomically
from tilth.errors import ContractError, NotFoundError, StaleError
from tilth.tokenize.mixture import TokenMixture
from tilth.trainer.config import TrainConfig, differences
from tilth.trainer.distill.kl import Buckets

FORMAT = "tilth.teacher_logits/1"
HEADER = "teacher_logits.json"


@dataclass(frozen=True)
class Header:
    """What the predictions are of. `temperature` is that of the k likeliest; of all ids (k None) they are at 1 and fit any."""

    k: int | None
    temperature: float
    vocab_size: int
    seq_len: int
    global_batch: int
    seed: int
    reverse_complement: float
    steps: int
    tokens: list[dict[str, Any]]  # of each source in the order of names: two names of the same tokens are the same
    teacher_digest: str = ""  # of its weights

    @classmethod
    def of(cls, config: TrainConfig, tokens: TokenMixture, vocab_size: int, k: int | None) -> Header:
        """What a run with `config` on `tokens` needs."""
        own = {name: getattr(config, name) for name in ("seq_len", "global_batch", "seed", "reverse_complement", "steps")}
        temperature = 1.0 if k is None else float(config.temperature)
        return cls(k, temperature, vocab_size, tokens=list(tokens.identity().values()), **own)

    def bytes_of_run(self) -> int:
        """What the predictions of all steps take on disk, without the files' headers."""
        n_tokens = self.steps * self.global_batch * self.seq_len
        return n_tokens * (
            2 * self.vocab_size if self.k is None else 2 * (self.k + 1) + _id_type(self.vocab_size)().itemsize * self.k
        )


class StoredLogits:
    """A folder of predictions, read step by step."""

    def __init__(self, folder: Path) -> None:
        path = folder / HEADER
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            self.header = Header(**values)
        except FileNotFoundError:
            raise NotFoundError(f"there is no {HEADER}, so these are no teacher's predictions", str(folder)) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ContractError(f"the header of a teacher's predictions is damaged: {error}", str(path)) from error
        self.folder = folder

    def check(self, config: TrainConfig, tokens: TokenMixture, vocab_size: int) -> None:
        """Raise StaleError, with each difference, unless these predictions are of what such a run reads."""
        asked, known = (_by_number(header) for header in (Header.of(config, tokens, vocab_size, self.header.k), self.header))
        known["steps"] = min(known["steps"], config.steps)  # a shorter run reads the same first steps
        if changed := differences(known, asked):
            raise StaleError(
                "the teacher's predictions were stored for another run: " + "; ".join(changed),
                where=str(self.folder),
                fix="Let the teacher read what this run reads, or leave the stored predictions out.",
            )

    def identity(self) -> dict[str, Any]:
        """What of them decides what a run computes, beside the teacher."""
        return {"k": self.header.k, "teacher_digest": self.header.teacher_digest}

    def read(self, places_B2: Tensor, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """log p (B, T, V), or (B, T, k + 1) with ids (B, T, k), of the sequences at `places_B2`, (step, sequence) of one step."""
        places = places_B2.tolist()
        step, numbers = places[0][0], [number for _, number in places]
        ids = None if self.header.k is None else torch.from_numpy(self._load(step, "ids")[numbers].astype(np.int64)).to(device)
        return torch.from_numpy(self._load(step, "log_p")[numbers]).to(device), ids

    def _load(self, step: int, kind: str) -> np.ndarray:
        path = step_file(self.folder, step, kind)
        try:
            array: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            fix = "`tilth check --repair` removes them; then distill again: they are made anew."
            raise ContractError(f"the teacher's predictions are missing or damaged: {error}", str(path), fix) from error
        return array


def write_header(folder: Path, header: Header) -> None:
    """Say that all steps are there."""
    values = {"format": FORMAT, **{field.name: getattr(header, field.name) for field in fields(header)}}
    write_atomically(folder / HEADER, json.dumps(values, indent=1).encode())


@contextlib.contextmanager
def written_step(folder: Path, step: int, header: Header) -> Iterator[Callable[[Buckets], None]]:
    """Publish a step, whole, at the end. The value takes what was said of its next tokens, until it had all of them.

    Tokens go to the disk as they come: a step of all ids may be larger than the memory.
    """
    with contextlib.ExitStack() as files:

        def begun(kind: str, width: int, dtype: type[np.generic]) -> BinaryIO:
            file = files.enter_context(written_atomically(step_file(folder, step, kind)))
            described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
            shape = (header.global_batch, header.seq_len, width)
            np.lib.format.write_array_header_1_0(file, {**described, "shape": shape})
            return file

        # the last that is begun is the first that is published: a step that has its log p is whole
        log_p_file = begun("log_p", header.vocab_size if header.k is None else header.k + 1, np.float16)
        ids_file = None if header.k is None else begun("ids", header.k, _id_type(header.vocab_size))

        def write(said: Buckets) -> None:
            log_p_file.write(said.log_p.half().cpu().numpy().tobytes())
            if ids_file is not None and said.ids is not None:
                ids_file.write(said.ids.cpu().numpy().astype(_id_type(header.vocab_size)).tobytes())

        yield write


def sweep(folder: Path) -> None:
    """Remove what a kill left of half-written steps; nobody may be writing."""
    for path in folder.glob(".*"):
        path.unlink()


def has_step(folder: Path, step: int) -> bool:
    """Whether a step is whole."""
    return step_file(folder, step, "log_p").exists()


def step_file(folder: Path, step: int, kind: str) -> Path:
    """Where the "log_p" or "ids" of a step lie."""
    return folder / f"step-{step:08d}.{kind}.npy"


def _id_type(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def _by_number(header: Header) -> dict[str, Any]:
    """The values that must be shared, the sources by their numbers."""
    tokens = {str(number): source for number, source in enumerate(header.tokens)}
    return {**asdict(header), "tokens": tokens, "teacher_digest": None}
