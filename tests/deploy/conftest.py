from __future__ import annotations

import inspect
import json
import pydoc_data.topics
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tilth.deploy.delta import compress
from tilth.deploy.delta_file import save_delta
from tilth.deploy.token_batches import read_batches
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import save_model
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.shards import TokenSet, write_tokens

SEQ_LEN = 64
N_PRETRAINING_STEPS = 60
N_TUNING_STEPS = 30

# 48 and 72 are no multiples of 32: the padding of the packed signs is always in play
CONFIG = ModelConfig(
    vocab_size=512,
    d_model=48,
    layers="MA",
    n_heads=4,
    n_kv_heads=2,
    head_dim=12,
    d_ff=72,
    d_state=16,
    ssm_head_dim=16,
    chunk_size=16,
)


def write_token_set(folder: Path, texts: list[str], tokenizer: Tokenizer) -> TokenSet:
    folder.mkdir()
    write_tokens(folder, ((bytes([i] * 16), "s/00000", i, tokenizer.encode(text)) for i, text in enumerate(texts)), tokenizer)
    return TokenSet.open(folder)


def train_a_little(model: Decoder, tokens: TokenSet, n_steps: int, learning_rate: float) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    for batch in read_batches(tokens, n_batches=n_steps, batch_size=4, seq_len=SEQ_LEN, seed=1):
        total, count = model.loss(batch.ids_BT, batch.targets_BT, batch.segments_BT)
        optimiser.zero_grad()
        (total / count).backward()
        optimiser.step()


@pytest.fixture(scope="session")
def texts() -> SimpleNamespace:
    """Two kinds of real text that every Python carries: source code, and the prose of its language reference."""
    code = [inspect.getsource(module) for module in (inspect, json, textwrap)]
    prose = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)[:40]]
    return SimpleNamespace(code=code, prose=prose)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, texts: SimpleNamespace) -> SimpleNamespace:
    """A base trained on code, its full fine-tune on prose, their tokens and the delta between them, on disk."""
    root = tmp_path_factory.mktemp("deploy")
    tokenizer = Tokenizer(train_bpe([*texts.code, *texts.prose], 512))
    code, prose = (write_token_set(root / name, getattr(texts, name), tokenizer) for name in ("code", "prose"))
    torch.manual_seed(0)
    model = Decoder(CONFIG)
    train_a_little(model, code, N_PRETRAINING_STEPS, 3e-3)
    save_model(root / "base", model)
    base_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_a_little(model, prose, N_TUNING_STEPS, 1e-3)
    save_model(root / "tuned", model)
    tuned_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    delta = compress(base_state, tuned_state)
    save_delta(root / "delta.safetensors", delta, delta.base_digest)
    return SimpleNamespace(
        root=root,
        base=root / "base",
        tuned=root / "tuned",
        path=root / "delta.safetensors",
        base_state=base_state,
        tuned_state=tuned_state,
        delta=delta,
        code=code,
        prose=prose,
    )
