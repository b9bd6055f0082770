"""The weights that a run begins with: drawn from its seed, or those of a saved model that may change its use."""

from __future__ import annotations

from pathlib import Path

import torch

from tilth.errors import StaleError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model
from tilth.tokenize.mixture import TokenMixture
from tilth.trainer.config import differences

CHANGEABLE = ("residual", "residual_from", "n_classes", "pooling", "vocab_size", "complement")
"""Settings that the same weights allow: another topology, and more classes and ids, whose weights begin anew.

More ids have room in the table while its rows, which are a multiple of 8, suffice.
"""


def initial_model(folder: Path | None, config: ModelConfig, tokens: TokenMixture) -> Decoder:
    """A new model from torch's generator, or that of `folder` with its CHANGEABLE settings as `config` has them.

    Raises StaleError when `folder` holds another model than `config` describes, or was trained with another vocabulary.
    """
    if folder is None:
        return Decoder(config)
    saved = load_model(folder).float()  # whatever it was saved in: half precision is a matter of products, see execution.py
    was, now = saved.config.to_dict(), config.to_dict()
    changed = differences(was, now | {name: was[name] for name in CHANGEABLE}, "model.")
    if config.padded_vocab_size != saved.config.padded_vocab_size or config.vocab_size < saved.config.vocab_size:
        changed.append(f"model.vocab_size: {saved.config.vocab_size} -> {config.vocab_size}, and the table has other rows")
    known = (model.complement[: saved.config.vocab_size] if model.complement else None for model in (saved.config, config))
    if len(set(known)) > 1 and saved.config.rcps:
        changed.append("model.complement: other pairs of ids than the weights were trained with")
    if (config.desync_ranks, saved.config.desync_ranks) != (1, 1) and config.residual != saved.config.residual:
        changed.append(f"model.residual: {saved.config.residual} -> {config.residual}, which other weights belong to")
    tokenizer = folder / "tokenizer.json"
    if tokenizer.exists() and tokenizer.read_bytes() != (tokens.folder / "tokenizer.json").read_bytes():
        changed.append("tokenizer.json: the vocabulary differs, so the same id would mean another token")
    if changed:
        raise StaleError(
            "the initial model is not the one to train: " + "; ".join(changed),
            where=str(folder),
            fix="Use its config, and tokenise the subset with its tokenizer.json.",
        )
    if saved.config == config:
        return saved
    model, weights = Decoder(config), saved.state_dict()
    n_known = saved.config.vocab_size
    for name in ("embedding.weight", "head.weight"):
        if name in weights:
            weights[name] = torch.cat([weights[name][:n_known], model.state_dict()[name][n_known:]])
    if saved.config.n_classes != config.n_classes:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("classes.")}
    model.load_state_dict(model.state_dict() | weights)
    return model
