"""The decoder: embedding, blocks over one residual stream, norm, head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tilth.kernels import linear
from tilth.models import states as decoder_states
from tilth.models.block import Block
from tilth.models.config import ModelConfig
from tilth.models.layout import lay_out
from tilth.models.linear import Linear
from tilth.models.losses import linear_cross_entropy
from tilth.models.norm import RMSNorm
from tilth.models.residual import RESIDUALS
from tilth.models.states import DecoderStates

EMBEDDING_STD = 0.02


class Decoder(nn.Module):
    """A causal language model over the layers of config.pattern.

    Initialised from torch's global generator as the Mamba-2 reference is: embedding N(0, 0.02),
    matrices uniform(+-1/sqrt(fan_in)), those that write to the residual stream divided by the
    square root of the number of writes.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(letter, config) for letter in config.pattern)
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = None
        if not config.tie_embeddings:
            self.head = Linear(config.d_model, config.padded_vocab_size)
        self.residual = RESIDUALS[config.residual]()
        self._initialise()
        mark_parameters(self)

    @torch.no_grad()
    def _initialise(self) -> None:
        for table in (self.embedding, self.head):
            if table is not None:
                table.weight.normal_(std=EMBEDDING_STD)
                table.weight[self.config.vocab_size :] = 0
        for name, weight in self.named_parameters():
            if name.endswith("out_proj.weight"):
                weight /= math.sqrt(self.config.n_sublayers)

    @property
    def head_weight(self) -> Tensor:
        """The head's rows for real tokens: the padding rows take no part in any softmax."""
        table = self.embedding if self.head is None else self.head
        return table.weight[: self.config.vocab_size]

    def forward(self, ids_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """Logits (B, T, vocab_size) of the next token; segments_BT (int) separates packed documents."""
        return self._predict(self.hidden(ids_BT, segments_BT))

    def loss(self, ids_BT: Tensor, targets_BT: Tensor, segments_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cross entropy (sum, count) over the targets other than -100, without holding all logits."""
        return linear_cross_entropy(self.hidden(ids_BT, segments_BT), self.head_weight, targets_BT)

    def hidden(self, ids_BT: Tensor, segments_BT: Tensor | None = None, states: DecoderStates | None = None) -> Tensor:
        """The normalised stream (B, T, d_model) before the head; states are advanced by T tokens."""
        start, lengths_B = (0, None) if states is None else (states.n_tokens, states.lengths_B)
        layout = lay_out(self.config, ids_BT, segments_BT, start, lengths_B)
        layers = [None] * len(self.blocks) if states is None else states.layers
        sublayers = [
            sublayer for block, state in zip(self.blocks, layers, strict=True) for sublayer in block.sublayers(layout, state)
        ]
        hidden_BTD: Tensor = self.norm(self.residual.run(sublayers, self.embedding(ids_BT)))
        if states is not None:
            states.advance(ids_BT.shape[1])
        return hidden_BTD

    def empty_states(self, batch: int, device: torch.device | str | None = None, capacity: int = 64) -> DecoderStates:
        """States of `batch` rows before their first token, on device (default: the model's)."""
        weight = self.embedding.weight
        where = weight.device if device is None else torch.device(device)
        return decoder_states.empty_states(self.config, batch, where, weight.dtype, capacity)

    @torch.no_grad()
    def prefill(self, ids_BT: Tensor, states: DecoderStates) -> Tensor:
        """Read T more tokens into states; logits (B, vocab_size) after the last. May be called again to continue."""
        return self._predict(self.hidden(ids_BT, states=states)[:, -1])

    @torch.no_grad()
    def step(self, ids_B: Tensor, states: DecoderStates) -> Tensor:
        """Read one more token per row into states; logits (B, vocab_size) of the next."""
        return self.prefill(ids_B.unsqueeze(1), states)

    def _predict(self, hidden: Tensor) -> Tensor:
        return linear(hidden, self.head_weight)


def mark_parameters(model: nn.Module) -> None:
    """Set `_no_weight_decay` and `_keep_fp32` on the parameters that need them; a deep copy loses the marks."""
    for module in model.modules():
        exempt = ("weight",) if isinstance(module, nn.Embedding) else getattr(module, "no_weight_decay", ())
        for name in exempt:
            getattr(module, name)._no_weight_decay = True
        for name in getattr(module, "keep_fp32", ()):
            getattr(module, name)._keep_fp32 = True
