"""LoRA adapters as they were trained: low-rank products, each of a band of a matrix's rows.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685). Where several layers of a
checkpoint are one matrix here (queries, keys and values), each has an adapter of its own, over its own rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.deploy.codecs.codec import FLOAT32, MatrixCodec, Parts, Shape, check_matrix, check_parts, check_product
from tilth.errors import DeltaError
from tilth.inference.tenants.weights import LowRankTerm, Term

_FACTORS = (torch.float16, torch.bfloat16, torch.float32)


class Lora(MatrixCodec):
    """Parts, of the i-th of n bands: up.i (rows, R), down.i (R, K); first_rows int32 (n,) and scale fp32 (n,).

    up is what PEFT calls lora_B, down lora_A, and scale alpha / R.
    """

    name = "lora"

    def encode_difference(self, difference_NK: Tensor) -> Parts:
        """Raises DeltaError: an adapter is trained, not found in a difference."""
        fix = "Read the adapter with `import_adapter`, or compress with `low-rank`."
        raise DeltaError("codec lora holds adapters as they were trained", where="codec", fix=fix)

    def decode(self, parts: Parts, shape: tuple[int, int]) -> Tensor:
        """scale * up @ down in each band's rows, fp32 (N, K)."""
        up_NR, down_RK = _joined(parts, shape)
        return up_NR @ down_RK

    def terms(self, parts: Parts, shape: tuple[int, int]) -> list[Term]:
        """One product of all bands: their ranks add up, and each up is zero outside its rows."""
        return [LowRankTerm(*_joined(parts, shape))]

    def check(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> str | None:
        """What is wrong with the parts; None = nothing."""
        if problem := check_matrix(shape):
            return problem
        n_bands = sum(name.startswith("up.") for name in parts)
        if not n_bands:
            return "has no band"
        wanted: dict[str, tuple[tuple[torch.dtype, ...], Shape]] = {
            "first_rows": ((torch.int32,), (n_bands,)),
            "scale": (FLOAT32, (n_bands,)),
        }
        for i in range(n_bands):
            up, down = parts.get(f"up.{i}"), parts.get(f"down.{i}")
            if up is None or down is None or up.ndim != 2:
                return f"has no whole band {i}"
            if not up.numel():
                return f"has a band {i} without a row or of rank 0"
            wanted |= {f"up.{i}": (_FACTORS, tuple(up.shape)), f"down.{i}": (_FACTORS, (up.shape[1], shape[1]))}
        if problem := check_parts(parts, wanted):
            return problem
        last = 0
        for i, first in enumerate(parts["first_rows"].tolist()):
            if first < last or first + len(parts[f"up.{i}"]) > shape[0]:
                return f"has a band {i} outside its rows"
            last = first + len(parts[f"up.{i}"])
        factors = ((parts["scale"][i], parts[f"up.{i}"], parts[f"down.{i}"]) for i in range(n_bands))
        return next(filter(None, (check_product(*own, n_terms=own[1].shape[1]) for own in factors)), None)


def _joined(parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """up_NR with its scales and down_RK of all bands, fp32."""
    starts = parts["first_rows"].tolist()
    ups = []
    for i, start in enumerate(starts):
        up = parts[f"up.{i}"].float() * parts["scale"][i]
        ups.append(torch.nn.functional.pad(up, (0, 0, start, shape[0] - start - len(up))))
    return torch.cat(ups, 1), torch.cat([parts[f"down.{i}"].float() for i in range(len(starts))])
