"""The operators of training, serving and deduplication: a readable reference, a fast CPU path and Triton kernels each.

All but the optimiser are `torch.library` custom operators, those on floating numbers with gradients. Which implementation
runs follows the device of the data; the argument `backend`, `use_backend` or the environment variable TILTH_KERNELS names
one instead. A backend that cannot run raises `BackendError`: there is no silent fallback. `tilth.kernels.dropin` offers
them under the names of the libraries that models are written for.
"""

from __future__ import annotations

from tilth.kernels.adamw import adamw_step
from tilth.kernels.adamw.optimizer import FusedAdamW
from tilth.kernels.attention import attention, attention_varlen
from tilth.kernels.attention_decode import attention_decode, write_pages
from tilth.kernels.attention_fp8 import attention_fp8, attention_fp8_blocks, quantize_blocks
from tilth.kernels.backend import BACKENDS, choose_backend, use_backend
from tilth.kernels.causal_conv1d import causal_conv1d, causal_conv1d_update
from tilth.kernels.embedding import embedding
from tilth.kernels.linear_cross_entropy import cross_entropy, linear_cross_entropy
from tilth.kernels.products import linear
from tilth.kernels.rms_norm import rms_norm
from tilth.kernels.rope import rope
from tilth.kernels.selective_scan import selective_scan, selective_step
from tilth.kernels.sign_matmul import sign_matmul, sign_matmul_grouped
from tilth.kernels.similarity_sketch import similarity_sketch
from tilth.kernels.ssd_scan import ssd_scan
from tilth.kernels.ssd_step import ssd_step
from tilth.kernels.swiglu import swiglu

__all__ = [
    "BACKENDS",
    "FusedAdamW",
    "adamw_step",
    "attention",
    "attention_decode",
    "attention_fp8",
    "attention_fp8_blocks",
    "attention_varlen",
    "causal_conv1d",
    "causal_conv1d_update",
    "choose_backend",
    "cross_entropy",
    "embedding",
    "linear",
    "linear_cross_entropy",
    "quantize_blocks",
    "rms_norm",
    "rope",
    "selective_scan",
    "selective_step",
    "sign_matmul",
    "sign_matmul_grouped",
    "similarity_sketch",
    "ssd_scan",
    "ssd_step",
    "swiglu",
    "use_backend",
    "write_pages",
]
