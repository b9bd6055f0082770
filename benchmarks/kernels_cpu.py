"""Times the CPU kernels against the reference and against torch's own operator, and appends rows to results.csv.

    python benchmarks/kernels_cpu.py [--threads 2] [--repeats 15] [--quick]

Ours and the peer take turns in the same run; each figure is the median. `ratio` is peer / ours: above 1 ours is faster.
Times include the gradient where `what` says fwd+bwd. On a shared machine the spread (10th to 90th percentile, in
notes) tells how far a figure can be trusted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from results import append, row, spread
from torch import Tensor
from torch.nn import functional

from tilth.dedup.minhash.sketch import compute_sketches, maps
from tilth.kernels import attention, rms_norm, similarity_sketch, ssd_scan, use_backend

Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small sizes only, and write nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for what, size, ours, peer, note in cases(options.quick):
        rows.append(measure(what, size, ours, peer, note, options.repeats))
        if options.quick:
            print("  ".join(rows[-1][name] for name in ("what", "size", "ours", "peer", "ratio")), note)
    if not options.quick:
        append(rows)


def cases(is_quick: bool) -> list[tuple[str, str, Call, Call, str]]:
    """Return (what, size, ours, peer, which peer)."""
    torch.manual_seed(0)
    found: list[tuple[str, str, Call, Call, str]] = []
    ssd_sizes = [(2, 64, 4, 16, 16)] if is_quick else [(8, 256, 4, 64, 32), (8, 256, 8, 64, 64), (1, 2048, 8, 64, 64)]
    for size in ssd_sizes:
        found += ssd_cases(*size)
    for batch, n_tokens in [(2, 64)] if is_quick else [(8, 256), (1, 2048)]:
        found += attention_cases(batch, n_tokens)
    for n_rows, d_model in [(64, 32)] if is_quick else [(2048, 256), (2048, 1024)]:
        found += rms_norm_cases(n_rows, d_model)
    for n_documents, n_values in [(50, 40)] if is_quick else [(2000, 300)]:
        found += sketch_cases(n_documents, n_values)
    return found


def sketch_cases(n_documents: int, n_values: int) -> list[tuple[str, str, Call, Call, str]]:
    """Sketches of 192 bins; documents of about `n_values` values."""
    lengths = torch.poisson(torch.full((n_documents,), float(n_values))).to(torch.int64)
    bounds = functional.pad(lengths.cumsum(0), (1, 0))
    values = torch.randint(-(2**63), 2**63 - 1, (int(bounds[-1]),)).view(torch.uint64)
    rounds = maps(0, 192)
    arrays = (values.numpy(), bounds.numpy(), rounds, 192)

    def ours() -> Any:
        return similarity_sketch(values, bounds, torch.from_numpy(rounds), 192)

    size = f"D={n_documents} N={len(values)} bins=192"
    return [
        ("similarity_sketch", size, on("cpu", ours), on("reference", ours), "peer: the reference"),
        ("similarity_sketch", size, on("cpu", ours), lambda: compute_sketches(*arrays), "peer: dedup's loop, one core"),
    ]


def ssd_cases(batch: int, n_tokens: int, heads: int, head_dim: int, d_state: int) -> list[tuple[str, str, Call, Call, str]]:
    inputs = {
        "x_BTHP": torch.randn(batch, n_tokens, heads, head_dim),
        "dt_BTH": functional.softplus(torch.randn(batch, n_tokens, heads) - 4),
        "A_H": -torch.linspace(1, 16, heads),
        "B_BTGN": torch.randn(batch, n_tokens, 1, d_state),
        "C_BTGN": torch.randn(batch, n_tokens, 1, d_state),
        "D_H": torch.ones(heads),
    }
    segments = documents(batch, n_tokens, 64)
    size = f"B{batch} T{n_tokens} H{heads} P{head_dim} N{d_state} fp32"
    return [
        (f"ssd_scan {kind}", size, on("cpu", call), on("reference", call), "peer: the reference, token by token")
        for kind, call in (
            ("fwd", lambda: ssd_scan(**inputs)),
            ("fwd+bwd", trained(lambda **leaves: ssd_scan(**leaves)[0], inputs)),
            ("packed fwd+bwd", trained(lambda **leaves: ssd_scan(**leaves, segments_BT=segments)[0], inputs)),
        )
    ]


def attention_cases(batch: int, n_tokens: int) -> list[tuple[str, str, Call, Call, str]]:
    heads, head_dim = 4, 64
    inputs = {name: torch.randn(batch, n_tokens, heads, head_dim) for name in ("q_BTHD", "k_BTGD", "v_BTGD")}
    segments = documents(batch, n_tokens, 64)
    size = f"B{batch} T{n_tokens} H{heads} D{head_dim} fp32 causal"
    ours = trained(attention, inputs)
    packed = trained(lambda **leaves: attention(**leaves, segments_BT=segments), inputs)
    windowed = trained(lambda **leaves: attention(**leaves, window=128), inputs)
    before = torch.arange(n_tokens)[:, None] - torch.arange(n_tokens)
    in_document = (segments[:, None, :, None] == segments[:, None, None, :]) & (before >= 0)
    in_window = (before >= 0) & (before <= 128)

    def torch_attention(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, seen: Tensor | None = None) -> Tensor:
        q, k, v = (tensor.transpose(1, 2) for tensor in (q_BTHD, k_BTGD, v_BTGD))
        causal = seen is None
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=causal).transpose(1, 2)

    by_torch = "peer: F.scaled_dot_product_attention"
    under_documents = trained(lambda **leaves: torch_attention(**leaves, seen=in_document), inputs)
    under_window = trained(lambda **leaves: torch_attention(**leaves, seen=in_window), inputs)
    return [
        ("attention fwd+bwd", size, on("cpu", ours), on("reference", ours), "peer: the reference, whole score matrix"),
        ("attention fwd", size, on("cpu", lambda: attention(**inputs)), lambda: torch_attention(**inputs), by_torch),
        ("attention fwd+bwd", size, on("cpu", ours), trained(torch_attention, inputs), by_torch),
        ("attention packed fwd+bwd", size, on("cpu", packed), under_documents, f"{by_torch} under a mask"),
        ("attention window 128 fwd+bwd", size, on("cpu", windowed), under_window, f"{by_torch} under a mask"),
    ]


def rms_norm_cases(n_rows: int, d_model: int) -> list[tuple[str, str, Call, Call, str]]:
    inputs = {"x_D": torch.randn(n_rows, d_model), "weight_D": torch.randn(d_model)}
    ours = trained(rms_norm, inputs)
    peer = trained(lambda x_D, weight_D: functional.rms_norm(x_D, (d_model,), weight_D, 1e-5), inputs)
    size = f"{n_rows} x {d_model} fp32"
    return [
        ("rms_norm fwd+bwd", size, on("cpu", ours), on("reference", ours), "peer: the reference"),
        ("rms_norm fwd+bwd", size, on("cpu", ours), peer, "peer: F.rms_norm"),
    ]


def documents(batch: int, n_tokens: int, mean_length: int) -> Tensor:
    """Return segment ids of documents of about `mean_length` tokens."""
    is_start = torch.rand(batch, n_tokens, generator=torch.Generator().manual_seed(0)) < 1 / mean_length
    return is_start.cumsum(dim=1).to(torch.int32)


def on(backend: str, call: Call) -> Call:
    def run() -> None:
        with use_backend(backend):
            call()

    return run


def trained(call: Callable[..., Tensor], inputs: dict[str, Tensor]) -> Call:
    """Return a call that runs the operator forward and backward."""
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}

    def run() -> None:
        y = call(**leaves)
        y.backward(torch.ones_like(y))
        for leaf in leaves.values():
            leaf.grad = None

    return run


def measure(what: str, size: str, ours: Call, peer: Call, note: str, repeats: int) -> dict[str, str]:
    for call in (ours, peer):
        call()
    ours_ms, peer_ms = [], []
    for _ in range(repeats):
        ours_ms.append(milliseconds(ours))
        peer_ms.append(milliseconds(peer))
    notes = f"{note}; p10-p90 ours {spread(ours_ms)}, peer {spread(peer_ms)}; torch {torch.__version__}"
    medians = [statistics.median(found) for found in (ours_ms, peer_ms)]
    return row(what, size, medians[0], "ms", medians[1], notes, threads=torch.get_num_threads())


def milliseconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
