"""A run small enough to be killed, repeated and compared in seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from tilth.models.config import ModelConfig
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.shards import TokenSet, write_tokens
from tilth.trainer.checkpoint import published
from tilth.trainer.config import TrainConfig
from tilth.trainer.given import Given
from tilth.trainer.loop import TrainResult, train

SCRIPT = Path(__file__).with_name("run_tiny.py")
Setup = dict[str, Any]


@pytest.fixture(autouse=True)
def _repeatable(one_thread: None) -> None:
    pass


def make_texts(n_documents: int, seed: int) -> list[str]:
    """Sentences with something to learn: each word tells the next."""
    rng = np.random.default_rng(seed)
    words = ["soil", "seed", "rain", "root", "leaf", "stem", "sun", "worm"]
    texts = []
    for _ in range(n_documents):
        at, said = int(rng.integers(8)), []
        for _ in range(int(rng.integers(1, 60))):
            said.append(words[at])
            at = (3 * at + 1 + int(rng.random() < 0.1)) % 8
        texts.append(" ".join(said))
    return texts


def write_set(folder: Path, texts: list[str], tokenizer: Tokenizer) -> Path:
    folder.mkdir()
    rows = ((row.to_bytes(16, "big"), "web/0", row, ids) for row, ids in enumerate(tokenizer.encode_batch(texts)))
    write_tokens(folder, rows, tokenizer)
    return folder


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = make_texts(300, seed=0)
    return write_set(tmp_path_factory.mktemp("sets") / "train", texts, Tokenizer(train_bpe(texts, 290)))


@pytest.fixture(scope="session")
def validation(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = TokenSet.open(tokens).tokenizer()
    texts = make_texts(21, seed=1)  # 15 sequences: two processes have no equal shares
    return write_set(tmp_path_factory.mktemp("sets") / "validation", texts, tokenizer)


@pytest.fixture(scope="session")
def model_config() -> ModelConfig:
    return ModelConfig(vocab_size=290, d_model=32, layers="MA", n_heads=2, d_ff=64, d_state=8, ssm_head_dim=16, chunk_size=16)


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    return TrainConfig(
        steps=20,
        seq_len=48,
        global_batch=4,
        micro_batch=2,
        lr=3e-3,
        warmup_steps=4,
        checkpoint_every=5,
        eval_every=10,
        device="cpu",
    )


@pytest.fixture(scope="session")
def setup(
    tokens: Path, validation: Path, model_config: ModelConfig, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Setup:
    """Everything that `run_tiny.py` needs, as JSON values."""
    return {
        "model": model_config.to_dict(),
        "train": config.to_dict(),
        "tokens": str(tokens),
        "validation": str(validation),
    }


@pytest.fixture
def run(tokens: Path, model_config: ModelConfig, config: TrainConfig, tmp_path: Path) -> Callable[..., TrainResult]:
    """Train into tmp_path/<name>; keyword arguments replace those of `train`, of what it is given, or fields of the config."""

    def call(name: str = "run", **changed: Any) -> TrainResult:
        def taken(*names: str) -> dict[str, Any]:
            return {key: changed.pop(key) for key in names if key in changed}

        given = Given(**taken("initial", "teacher", "teacher_logits"))
        arguments = taken("model_config", "tokens", "validation", "on_step")
        values = {"model_config": model_config, "tokens": tokens, "validation": None, "given": given, **arguments}
        return train(config=TrainConfig.from_dict({**config.to_dict(), **changed}), work_dir=tmp_path / name, **values)

    return call


@pytest.fixture
def saved_tensors() -> Callable[[Path], dict[str, Tensor]]:
    """The tensors of the last checkpoint of a work folder: weights as "model/NAME", the optimiser's as "KIND/NAME"."""

    def read(work_dir: Path) -> dict[str, Tensor]:
        folder = published(work_dir)[-1]
        entries = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one process
            dcp.load(tensors, checkpoint_id=folder)
        return tensors

    return read


@pytest.fixture
def run_tiny(setup: Setup) -> Callable[..., subprocess.Popen[str]]:
    """Start `run_tiny.py` in a process of its own, under `launcher` if given; `options` are merged into the setup."""

    def start(
        work_dir: Path, launcher: tuple[str, ...] = (), env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        work_dir.mkdir(exist_ok=True)
        path = work_dir.with_suffix(".setup.json")
        path.write_text(json.dumps({**setup, "work_dir": str(work_dir), **options}))
        return subprocess.Popen(
            [sys.executable, *launcher, str(SCRIPT), str(path)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def uninterrupted(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a run of 20 steps in one process that nothing disturbed."""
    work_dir = tmp_path_factory.mktemp("whole") / "run"
    path = work_dir.with_suffix(".json")
    path.write_text(json.dumps({**setup, "work_dir": str(work_dir)}))
    subprocess.run([sys.executable, str(SCRIPT), str(path)], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=120)
    return work_dir
