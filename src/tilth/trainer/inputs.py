"""What a run is given, opened, and refused where its parts do not fit one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tilth.errors import StaleError, TrainError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model
from tilth.tokenize.mixture import Source, TokenMixture
from tilth.trainer.config import differences


def open_tokens(sources: Path | Sequence[Source], model_config: ModelConfig) -> TokenMixture:
    """The token sets of a run, as `TokenMixture.open`. Raises TrainError when the model cannot read them."""
    tokens = TokenMixture.open(sources)
    if tokens.vocab_size > model_config.vocab_size:
        raise TrainError(
            f"the tokens use a vocabulary of {tokens.vocab_size}, the model knows {model_config.vocab_size}",
            where=str(tokens.folder),
            fix=f"Set the model's vocab_size to {tokens.vocab_size} or more.",
        )
    return tokens


def load_initial(folder: Path, model_config: ModelConfig, tokens: TokenMixture) -> Decoder:
    """The saved model that a run begins from. Raises StaleError when its config or vocabulary is not that of the run."""
    model = load_model(folder)
    changed = differences(model.config.to_dict(), model_config.to_dict(), "model.")
    tokenizer = folder / "tokenizer.json"
    if tokenizer.exists() and tokenizer.read_bytes() != (tokens.folder / "tokenizer.json").read_bytes():
        changed.append("tokenizer.json: the vocabulary differs, so the same id would mean another token")
    if changed:
        raise StaleError(
            "the initial model is not the one to train: " + "; ".join(changed),
            where=str(folder),
            fix="Use its config, and tokenise the subset with its tokenizer.json.",
        )
    return model
