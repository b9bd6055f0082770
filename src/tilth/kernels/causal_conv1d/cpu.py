"""The convolution on the CPU: shifted multiply-adds on tiles that stay in the cache, with a hand-written backward.

F.conv1d wants channels before tokens, and its transposes alone cost more than the taps do. Here every tap is one
multiply-add of a shifted view. A tile of tokens goes through all taps and the activation before the next one is read,
so memory is passed over once; the backward computes the values before the activation again instead of keeping them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype
from tilth.kernels.causal_conv1d.inputs import ConvInputs
from tilth.kernels.causal_conv1d.state import update_by
from tilth.kernels.documents import first_tokens

# Values of one tile and thread: smaller ones cost more in calls than they gain in the cache.
_TILE = 2**18


def forward(inputs: ConvInputs, activation: str | None, reverse: bool) -> Tensor:
    """Return y_BTC in the dtype of x."""
    conv = _Conv.of(inputs, reverse)
    y_BTC = torch.empty(inputs.x_BTC.shape, dtype=inputs.x_BTC.dtype, device=inputs.x_BTC.device)
    scratch = torch.empty(conv.tile_values, dtype=conv.dtype)
    for tile in conv.tiles():
        y = y_BTC[tile.rows, tile.tokens]
        total = scratch[: y.numel()].view(y.shape)
        conv.sum_taps(tile, conv.inputs_of(tile), out=total)
        if activation is None:
            y.copy_(total)
        elif y.dtype == conv.dtype:
            torch.ops.aten.silu.out(total, out=y)
        else:
            y.copy_(torch.nn.functional.silu(total, inplace=True))
    return y_BTC


def backward(dy_BTC: Tensor, inputs: ConvInputs, activation: str | None, reverse: bool) -> tuple[Tensor, ...]:
    """Return the gradients of x, weight, bias and initial state (the last two empty where not given).

    Tiles go against the direction of the convolution, so that the gradients which a tile needs from the tokens that
    see it, K - 1 rows, are those that the tile before left over.
    """
    conv = _Conv.of(inputs, reverse)
    dx_BTC = torch.empty(inputs.x_BTC.shape, dtype=inputs.x_BTC.dtype, device=inputs.x_BTC.device)
    dtaps_KC, dbias_C = torch.zeros_like(conv.taps_KC), torch.zeros_like(conv.taps_KC[0])
    dinitial = None if conv.initial is None else torch.empty(conv.initial.shape, dtype=conv.initial.dtype)
    n_halo = conv.n_taps - 1
    scratch, products = (torch.empty(conv.tile_values + extra, dtype=conv.dtype) for extra in (conv.halo_values, 0))
    left_over = dx_BTC
    for tile in conv.tiles(against=True):
        read, dy, dx = conv.inputs_of(tile), dy_BTC[tile.rows, tile.tokens], dx_BTC[tile.rows, tile.tokens]
        n_rows, n_tokens, n_channels = dy.shape
        product = products[: dy.numel()].view(dy.shape)
        grad = scratch[: dy.numel() + n_rows * n_halo * n_channels].view(n_rows, n_tokens + n_halo, n_channels)
        own, halo = (grad[:, n_halo:], grad[:, :n_halo]) if reverse else (grad[:, :n_tokens], grad[:, n_tokens:])
        if tile.is_last:
            halo.zero_()
        else:
            halo.copy_(left_over)
        if activation is None:
            own.copy_(dy)
        else:
            conv.sum_taps(tile, read, out=product)
            torch.ops.aten.silu_backward.grad_input(dy.to(conv.dtype), product, grad_input=own)
        left_over = (grad[:, n_tokens:] if reverse else grad[:, :n_halo]).clone()
        dbias_C += own.sum((0, 1))
        conv.backward_taps(tile, read, grad, product, dx, dtaps_KC)
        if dinitial is not None and tile.is_first:
            dinitial[tile.rows] = conv.initial_backward(tile, left_over).to(dinitial.dtype)
    dbias = dy_BTC.new_empty((0,)) if inputs.bias_C is None else dbias_C.to(inputs.bias_C.dtype)
    dweight_CK = (dtaps_KC.flip(0) if reverse else dtaps_KC).T.to(inputs.weight_CK.dtype).contiguous()
    return dx_BTC, dweight_CK, dbias, dy_BTC.new_empty((0,)) if dinitial is None else dinitial


def update(
    x_BTC: Tensor, state_SKC: Tensor, weight_CK: Tensor, bias_C: Tensor | None, activation: str | None, slots_B: Tensor | None
) -> Tensor:
    """Return y_BTC and replace the states by those after the new tokens."""
    if slots_B is None and x_BTC.shape[1] == 1:
        return _update_by_one(x_BTC, state_SKC, weight_CK, bias_C, activation)
    return update_by(forward, x_BTC, state_SKC, weight_CK, bias_C, activation, slots_B)


def _update_by_one(x_B1C: Tensor, state_BKC: Tensor, weight_CK: Tensor, bias_C: Tensor | None, activation: str | None) -> Tensor:
    """One token a row, as when decoding: few calls of torch are what counts."""
    dtype = compute_dtype(x_B1C, weight_CK)
    window_BKC = torch.cat([state_BKC.to(dtype), x_B1C.to(dtype)], dim=1)
    state_BKC.copy_(window_BKC[:, 1:])
    # the taps are copied: a product with their transposed view takes twice as long
    y_BC = window_BKC.mul_(weight_CK.T.to(dtype).contiguous()).sum(dim=1)
    if bias_C is not None:
        y_BC += bias_C.to(dtype)
    if activation is not None:
        y_BC = torch.nn.functional.silu(y_BC, inplace=True)
    return y_BC.unsqueeze(1).to(x_B1C.dtype)


@dataclass(frozen=True)
class _Tile:
    """Tokens of one row, or whole rows: neighbours in memory, read as one."""

    rows: slice
    tokens: slice
    is_first: bool  # in the direction of the convolution: it sees the initial state
    is_last: bool  # no token after it sees it


@dataclass(frozen=True)
class _TileInputs:
    """The padded rows that a tile reads: those of the input, and the few that lie before it, or behind it if `reverse`."""

    inside: Tensor
    outside: Tensor
    reverse: bool

    def windows(self, offset: int, n_tokens: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield tokens of the tile and what they read `offset` rows on; twice only where the tile reads rows of both kinds."""
        n_inside, n_outside = self.inside.shape[1], self.outside.shape[1]
        if self.reverse:
            split = min(max(n_inside - offset, 0), n_tokens)
            yield slice(0, split), self.inside[:, offset : offset + split]
            if split < n_tokens:
                yield slice(split, n_tokens), self.outside[:, offset + split - n_inside : offset + n_tokens - n_inside]
        else:
            split = min(max(n_outside - offset, 0), n_tokens)
            if split:
                yield slice(0, split), self.outside[:, offset : offset + split]
            yield slice(split, n_tokens), self.inside[:, offset + split - n_outside : offset + n_tokens - n_outside]


@dataclass(frozen=True)
class _Conv:
    """A convolution as a sum over rows of the padded input: token t reads padded rows t to t + K - 1, with taps_KC.

    The padding, K - 1 rows of the initial state or zeros, comes before the first token, and after the last if `reverse`.
    """

    x_BTC: Tensor
    taps_KC: Tensor
    bias_C: Tensor
    initial: Tensor | None
    young: _YoungTokens | None
    reverse: bool

    @classmethod
    def of(cls, inputs: ConvInputs, reverse: bool) -> _Conv:
        x_BTC, weight_CK, bias_C, segments_BT, initial = inputs
        dtype = compute_dtype(x_BTC, weight_CK)
        # Few numbers are flipped here, so that no activation ever is.
        taps_KC = (weight_CK.flip(1) if reverse else weight_CK).T.to(dtype).contiguous()
        bias_C = torch.zeros_like(taps_KC[0]) if bias_C is None else bias_C.to(dtype)
        young = None if segments_BT is None else _YoungTokens.of(segments_BT, weight_CK.shape[1], reverse)
        return cls(x_BTC, taps_KC, bias_C, initial, young, reverse)

    @property
    def dtype(self) -> torch.dtype:
        return self.taps_KC.dtype

    @property
    def n_taps(self) -> int:
        return self.taps_KC.shape[0]

    @property
    def tile_size(self) -> tuple[int, int]:
        """The rows and tokens of a tile: several rows only where they are whole."""
        n_batch, n_tokens, n_channels = self.x_BTC.shape
        n_values = max(_TILE * torch.get_num_threads() // max(n_channels, 1), self.n_taps)
        n_tiles = max(round(n_tokens / n_values), 1)
        n_wide = max(-(-n_tokens // n_tiles), 1)
        return (min(max(n_values // n_wide, 1), n_batch) if n_tiles == 1 else 1), n_wide

    @property
    def tile_values(self) -> int:
        n_high, n_wide = self.tile_size
        return n_high * n_wide * self.x_BTC.shape[2]

    @property
    def halo_values(self) -> int:
        return self.tile_size[0] * (self.n_taps - 1) * self.x_BTC.shape[2]

    def tiles(self, against: bool = False) -> Iterator[_Tile]:
        """Yield the tiles; with `against` the last tokens in the direction of the convolution come first."""
        n_batch, n_tokens, _ = self.x_BTC.shape
        n_high, n_wide = self.tile_size
        starts = range(0, n_tokens, n_wide)
        for row in range(0, n_batch, max(n_high, 1)):
            for start in reversed(starts) if against != self.reverse else starts:
                stop = min(start + n_wide, n_tokens)
                is_at_start, is_at_end = start == 0, stop == n_tokens
                first, last = (is_at_end, is_at_start) if self.reverse else (is_at_start, is_at_end)
                yield _Tile(slice(row, min(row + n_high, n_batch)), slice(start, stop), first, last)

    def inputs_of(self, tile: _Tile) -> _TileInputs:
        """Return what the tile reads, in the dtype of the computation; a view where possible."""
        n_halo, n_tokens, tokens = self.n_taps - 1, self.x_BTC.shape[1], tile.tokens
        low, high = (tokens.start, tokens.stop + n_halo) if self.reverse else (tokens.start - n_halo, tokens.stop)
        inside = self.x_BTC[tile.rows, max(low, 0) : min(high, n_tokens)].to(self.dtype)
        n_outside = high - low - inside.shape[1]
        if self.initial is None or n_outside == 0:
            outside = inside.new_zeros(inside.shape[0], n_outside, inside.shape[2])
        else:
            nearest = slice(0, n_outside) if self.reverse else slice(n_halo - n_outside, n_halo)
            outside = self.initial[tile.rows, nearest].to(self.dtype)
        return _TileInputs(inside, outside, self.reverse)

    def sum_taps(self, tile: _Tile, inputs: _TileInputs, out: Tensor) -> None:
        """Write bias + sum of the taps over the tile's inputs; `out` is contiguous.

        From the farthest tap to the nearest, and tokens too young for a tap lose it again: exact, and a NaN of another
        document cannot pass.
        """
        young = self.young.of_tile(tile) if self.young else {}
        for distance in reversed(range(self.n_taps)):
            offset = self._offset(distance)
            for tokens, window in inputs.windows(offset, out.shape[1]):
                part = out[:, tokens]
                torch.addcmul(self.bias_C if distance == self.n_taps - 1 else part, window, self.taps_KC[offset], out=part)
            if (too_young := young.get(distance)) is not None:
                out.flatten(0, 1).index_copy_(0, too_young, self.bias_C.expand(len(too_young), -1))

    def backward_taps(
        self, tile: _Tile, inputs: _TileInputs, grad: Tensor, product: Tensor, dx: Tensor, dtaps_KC: Tensor
    ) -> None:
        """Write the gradient of the tile's own tokens and add to that of the taps; `grad` is used up.

        `grad` covers the tile and the K - 1 tokens that see it from outside. From the nearest tap to the farthest it
        loses the tokens too young for a tap, and so for all that follow.
        """
        n_tokens, n_halo = dx.shape[1], self.n_taps - 1
        own = grad[:, n_halo:] if self.reverse else grad[:, :n_tokens]
        young = self.young.of_tile(tile, n_halo) if self.young else {}
        total = dx if dx.dtype == self.dtype else torch.empty(dx.shape, dtype=self.dtype)
        for distance in range(self.n_taps):
            if (too_young := young.get(distance)) is not None:
                grad.flatten(0, 1).index_fill_(0, too_young, 0.0)
            offset = self._offset(distance)
            seeing = grad[:, n_halo - offset : n_halo - offset + n_tokens]
            if distance == 0:
                torch.mul(seeing, self.taps_KC[offset], out=total)
            else:
                total.addcmul_(seeing, self.taps_KC[offset])
            for tokens, window in inputs.windows(offset, n_tokens):
                torch.mul(own[:, tokens], window, out=product[:, tokens])
            dtaps_KC[offset] += product.sum((0, 1))
        if total is not dx:
            dx.copy_(total)

    def initial_backward(self, tile: _Tile, grad: Tensor) -> Tensor:
        """Return the gradient of the initial state from that of the K - 1 tokens nearest to it."""
        n_halo = self.n_taps - 1
        if self.young is not None:
            nearest = self.x_BTC.shape[1] if self.reverse else n_halo
            is_young = self.young.padded_age[tile.rows, nearest : nearest + n_halo] < n_halo
            grad = grad.masked_fill(is_young.unsqueeze(-1), 0.0)
        dinitial = torch.zeros_like(grad)
        for offset in range(self.n_taps):
            if self.reverse:
                dinitial[:, :offset].addcmul_(grad[:, n_halo - offset :], self.taps_KC[offset])
            else:
                dinitial[:, offset:].addcmul_(grad[:, : n_halo - offset], self.taps_KC[offset])
        return dinitial

    def _offset(self, distance: int) -> int:
        """Return which of the K padded rows of a token lies `distance` tokens from it."""
        return distance if self.reverse else self.n_taps - 1 - distance


@dataclass(frozen=True)
class _YoungTokens:
    """Which tokens have too few of their document before them for a tap to read.

    padded_age: the tokens of its document before each token (after it, if `reverse`), at least K in the row's first
    document, which the initial state belongs to; padded by K - 1 tokens of age K on both sides.
    """

    padded_age: Tensor
    n_taps: int
    reverse: bool

    @classmethod
    def of(cls, segments_BT: Tensor, n_taps: int, reverse: bool) -> _YoungTokens:
        segments_BT = segments_BT.flip(1) if reverse else segments_BT
        index_T = torch.arange(segments_BT.shape[1], device=segments_BT.device)
        first_BT = torch.where(first_tokens(segments_BT), index_T, -n_taps).cummax(dim=1).values
        age = torch.nn.functional.pad(index_T - first_BT, (n_taps - 1, n_taps - 1), value=n_taps)
        return cls(age.flip(1) if reverse else age, n_taps, reverse)

    def of_tile(self, tile: _Tile, n_halo: int = 0) -> dict[int, Tensor]:
        """Return, for each distance, the tokens of the tile that a tap so far must not reach; none where all may.

        Tokens are counted through the tile's rows, which have `n_halo` more tokens on the side that sees the tile.
        """
        start = tile.tokens.start - (n_halo if self.reverse else 0) + self.n_taps - 1
        age = self.padded_age[tile.rows, start : start + tile.tokens.stop - tile.tokens.start + n_halo].flatten()
        tokens = (age < self.n_taps - 1).nonzero().squeeze(-1)
        if not len(tokens):
            return {}
        ages, order = age[tokens].sort()
        tokens = tokens[order]
        ends = torch.searchsorted(ages, torch.arange(1, self.n_taps)).tolist()
        return {distance: tokens[:end] for distance, end in enumerate(ends, start=1)}
