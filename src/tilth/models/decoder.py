"""The decoder: embedding, blocks over one residual stream, norm, head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tilth.errors import RecipeError
from tilth.kernels import linear
from tilth.models import states as decoder_states
from tilth.models.block import Block
from tilth.models.config import ModelConfig
from tilth.models.layout import SequenceLayout, lay_out
from tilth.models.linear import Linear
from tilth.models.losses import linear_cross_entropy
from tilth.models.norm import RMSNorm
from tilth.models.pooling import pooled
from tilth.models.residual import RESIDUALS, Sublayer
from tilth.models.sharding import check_cuts
from tilth.models.states import DecoderStates
from tilth.models.strands import both_strands, joined_head, joined_strands, on_swapped, settled
from tilth.models.tensor_ranks import TensorRanks

T = TypeVar("T")


class Decoder(nn.Module):
    """A language model over the layers of config.pattern, or one rank's slice of it.

    Initialised from torch's global generator as the Mamba-2 reference is: matrices uniform(+-1/sqrt(fan_in)), those
    that write to the residual stream divided by the square root of the number of writes. The embedding is N(0, 1/d_model),
    which is the reference's 0.02 at 2560 channels: at fewer, 0.02 is drowned by what the first layers write. A model that
    reads both ways keeps to 0.02: its tied head would begin by naming the [MASK] that it reads.
    A slice is made of a whole model by sharding.shard.
    """

    def __init__(self, config: ModelConfig, ranks: TensorRanks | None = None) -> None:
        super().__init__()
        self.config, self.ranks = config, ranks or TensorRanks()
        check_cuts(config, self.ranks.size)
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.blocks = nn.ModuleList(self._make_block(letter) for letter in config.pattern)
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = None
        if not config.tie_embeddings:
            self.head = Linear(config.d_model, config.padded_vocab_size)
        self.classes = nn.Linear(config.d_model, config.n_classes) if config.n_classes else None
        self.residual = RESIDUALS[config.residual](config.residual_from * config.sublayers_per_layer)
        self._initialise()
        mark_parameters(self)

    def _make_block(self, letter: str) -> nn.Module:
        """A block; of a desync model the shards of a block that are computed here, by their number."""
        config, ranks = self.config, self.ranks
        if config.desync_ranks == 1:
            return Block(letter, config, ranks.size)
        here = [ranks.rank] if ranks.size > 1 else range(config.desync_ranks)
        return nn.ModuleDict({str(number): Block(letter, config, config.desync_ranks) for number in here})

    @torch.no_grad()
    def _initialise(self) -> None:
        for table in (self.embedding, self.head):
            if table is not None:
                table.weight.normal_(std=0.02 if self.config.bidirectional else self.config.d_model**-0.5)
                table.weight[self.config.vocab_size :] = 0
        for name, weight in self.named_parameters():
            if name.endswith("out_proj.weight"):
                # a shard of a desync model has a fan-in of its own, smaller than the whole layer's
                weight /= math.sqrt(self.config.n_sublayers * self.config.desync_ranks)

    @property
    def head_weight(self) -> Tensor:
        """The head's rows for real tokens: the padding rows take no part in any softmax. (vocab_size, width of hidden)."""
        table = self.embedding if self.head is None else self.head
        weight_VD = table.weight[: self.config.vocab_size]
        return joined_head(weight_VD, self.config) if self.config.rcps else weight_VD

    def forward(self, ids_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """Logits (B, T, vocab_size) of the next token, or of each token when the model is bidirectional.

        segments_BT (int) separates packed documents.
        """
        return self.predict(self.hidden(ids_BT, segments_BT))

    def loss(
        self, ids_BT: Tensor, targets_BT: Tensor, segments_BT: Tensor | None = None, each_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy (sum, count) over the targets other than -100, without holding all logits.

        A rank of several returns what its share of the tokens adds to both. `each_BT`, where given, is filled with the
        loss of each token of this rank's share, 0 where there is no target.
        """
        hidden_SD, targets_S = self.hidden(ids_BT, segments_BT).flatten(0, 1), targets_BT.flatten()
        share = self.ranks.share
        each_S = None if each_BT is None else share(each_BT.zero_().view(-1))
        return linear_cross_entropy(share(hidden_SD), self.head_weight, share(targets_S), each_BT=each_S)

    def measure(self, ids_BT: Tensor, segments_BT: Tensor | None, of: Callable[[Tensor, Tensor], T]) -> T:
        """of(hidden (B, T, D), head weight (V, D)): for other losses; both are whole where they lie in shards."""
        return of(self.hidden(ids_BT, segments_BT), self.head_weight)

    def classify(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, n_classes) of what each document is, the first lengths_B tokens of its row."""
        if self.classes is None:
            raise RecipeError("this model has no classes", where="ModelConfig.n_classes", fix="Fine-tune it to classify.")
        logits_BC: Tensor = self.classes(pooled(self.hidden, ids_BT, lengths_B, self.config))
        return logits_BC

    def hidden(self, ids_BT: Tensor, segments_BT: Tensor | None = None, states: DecoderStates | None = None) -> Tensor:
        """The normalised stream before the head (B, T, d_model), with rcps (B, T, 2 d_model); states are advanced by T tokens."""
        start, lengths_B = (0, None) if states is None else (states.n_tokens, states.lengths_B)
        if self.config.rcps:
            ids_BT, segments_BT = both_strands(ids_BT, segments_BT, self.config)
        layout = lay_out(self.config, ids_BT, segments_BT, start, lengths_B)
        x_BTD = self.residual.run(self._shards(layout, states), self.embedding(ids_BT), self.ranks)
        if states is not None:
            states.advance(ids_BT.shape[1])
        if self.config.rcps:
            return joined_strands(self.norm(settled(x_BTD, self.config)))
        hidden_BTD: Tensor = self.norm(x_BTD)
        return hidden_BTD

    def streams(self, ids_BT: Tensor, segments_BT: Tensor | None = None) -> list[Tensor]:
        """The residual stream (B, T, D) before each block and after the last: one more than there are layers.

        Raises RecipeError where no one stream lies between two layers, see `layer_outputs`.
        """
        self._require_one_stream()
        layout = lay_out(self.config, ids_BT, segments_BT, 0)
        streams = [self.embedding(ids_BT)]
        for block in self.blocks:
            streams.append(self.residual.run([block.sublayers(layout, None)], streams[-1], self.ranks))
        return streams

    def layer_outputs(self, inputs: Mapping[int, Tensor], segments_BT: Tensor | None = None) -> dict[int, Tensor]:
        """The stream after layer l, had it been inputs[l] (B, T, D) before it, of each l that is given, counted from 0.

        Raises RecipeError for another residual than the standard one, and for rcps: no one stream lies between two layers.
        """
        self._require_one_stream()
        outputs: dict[int, Tensor] = {}
        for number, x_BTD in inputs.items():
            layout = lay_out(self.config, x_BTD[..., 0], segments_BT, 0)
            outputs[number] = self.residual.run([self.blocks[number].sublayers(layout, None)], x_BTD, self.ranks)
        return outputs

    def layer_matrices(
        self, inputs: Mapping[int, Tensor], segments_BT: Tensor | None, measure: Callable[[int, Tensor], Tensor]
    ) -> dict[int, Tensor]:
        """`measure(l, matrices)` of the matrices (B, H, T, T) by which the mixer of layer l mixes inputs[l] (B, T, D).

        inputs[l] is what the mixer reads: the stream after the norm before it. A layer's matrices are dropped before the
        next one's are made, and made again for the gradient: T^2 of one layer at a time, not of all.
        Raises RecipeError for a mixer that has none: mamba1, one that reads both ways, or a shard of a desync model.
        """

        def of_layer(x_BTD: Tensor, number: int) -> Tensor:
            layout = lay_out(self.config, x_BTD[..., 0], segments_BT, 0)
            return measure(number, self.blocks[number].mixer.matrices(x_BTD, layout))

        for number in inputs:
            if not hasattr(getattr(self.blocks[number], "mixer", None), "matrices"):
                raise RecipeError(
                    f"the mixer of layer {number}, {self.config.pattern[number]}, is no one matrix for each head",
                    where="ModelConfig.layers",
                    fix="Compare layers of A, M or D that read one way, in a model that is not desync.",
                )
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        return {number: checkpoint(of_layer, x_BTD, number, **options) for number, x_BTD in inputs.items()}

    def _require_one_stream(self) -> None:
        if self.config.residual != "standard" or self.config.rcps:
            given = "rcps" if self.config.rcps else f"residual={self.config.residual!r}"
            fix = "Use a model of the standard residual without rcps, and change the residual of the finished one."
            raise RecipeError(f"with {given} no one stream lies between two layers", "ModelConfig.residual", fix)

    def _shards(self, layout: SequenceLayout, states: DecoderStates | None) -> list[list[Sublayer]]:
        """The sublayers of all layers, for each shard that is computed in this process."""
        layers = [None] * len(self.blocks) if states is None else states.layers
        shards: list[list[Sublayer]] = []
        for number, (block, state) in enumerate(zip(self.blocks, layers, strict=True)):
            parts = block.values() if isinstance(block, nn.ModuleDict) else [block]
            found = [part.sublayers(layout, state) for part in parts]
            if self.config.rcps_swap and number % 2 == 0:
                found = [[on_swapped(sublayer) for sublayer in sublayers] for sublayers in found]
            shards = [old + new for old, new in zip(shards or [[] for _ in found], found, strict=True)]
        return shards

    def empty_states(self, batch: int, device: torch.device | str | None = None, capacity: int = 64) -> DecoderStates:
        """States of `batch` rows before their first token, on device (default: the model's).

        Raises RecipeError for a model that cannot continue a text: bidirectional, or cut into shards.
        """
        config = self.config
        if config.bidirectional or config.rcps or config.desync_ranks > 1 or self.ranks.size > 1:
            raise RecipeError("this model keeps no states: it reads both ways, or is cut into shards", where="ModelConfig")
        weight = self.embedding.weight
        where = weight.device if device is None else torch.device(device)
        return decoder_states.empty_states(self.config, batch, where, weight.dtype, capacity)

    @torch.no_grad()
    def prefill(self, ids_BT: Tensor, states: DecoderStates) -> Tensor:
        """Read T more tokens into states; logits (B, vocab_size) after the last. May be called again to continue."""
        return self.predict(self.hidden(ids_BT, states=states)[:, -1])

    @torch.no_grad()
    def step(self, ids_B: Tensor, states: DecoderStates) -> Tensor:
        """Read one more token per row into states; logits (B, vocab_size) of the next."""
        return self.prefill(ids_B.unsqueeze(1), states)

    def predict(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size) of the normalised stream that `hidden` returns."""
        if not self.config.rcps:
            return linear(hidden, self.head_weight)
        # a product a strand: the sum of two does not depend on their order, so turned DNA gives the same bits
        parts = zip(hidden.chunk(2, -1), self.head_weight.chunk(2, -1), strict=True)
        own, other = (linear(part, weight) for part, weight in parts)
        return own + other


def store_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Turn all parameters into `dtype`, in place; those marked `_keep_fp32` into fp32, however they were stored."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32 if getattr(parameter, "_keep_fp32", False) else dtype)


def mark_parameters(model: nn.Module) -> None:
    """Set `_no_weight_decay` and `_keep_fp32` on the parameters that need them; a deep copy loses the marks."""
    for module in model.modules():
        exempt = ("weight",) if isinstance(module, nn.Embedding) else getattr(module, "no_weight_decay", ())
        for name in exempt:
            getattr(module, name)._no_weight_decay = True
        for name in getattr(module, "keep_fp32", ()):
            getattr(module, name)._keep_fp32 = True
