"""Times one token of each of 1 to 64 tenants in one batch over their base, against as many dense models in turn, on the CPU.

    python benchmarks/tenants.py [--threads 1] [--rounds 15] [--dtype float32] [--layers MMMA*2] [--quick]

A tenant has one-bit differences with scales of rows and columns for every matrix of the blocks, every vector, and 1/64 of the
vocabulary's rows. The peer's models are these fine-tunes, base + differences, in matrices of their own: 16 of them, 10 GB in
float32, so that no cache holds any, and for 64 tenants they take four turns. Each row has read 32 tokens. First both are
checked to have the same logits. In turns in one process; medians of CPU time of the process where it has one thread, else of
wall time. "base alone" is as many rows of the base: what any sharing must take.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from results import append, row, spread
from torch import Tensor

from tilth.inference.states import join
from tilth.inference.tenants.bank import TenantBank
from tilth.inference.tenants.weights import ChangedRows, SignTerm, TenantWeights
from tilth.kernels.sign_matmul import unpack
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.linear import Linear
from tilth.models.states import DecoderStates

N_TENANTS, N_DENSE, N_READ = (1, 4, 16, 64), 16, 32
Run = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--layers", default="MMMA*2")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=32_000, d_model=options.width, layers=options.layers, n_heads=options.width // 64)
    model = Decoder(config).to(getattr(torch, options.dtype))
    bank, dense = TenantBank(model, "base"), []
    for number in range(max(N_TENANTS)):
        weights = draw(model)
        bank.load(str(number), weights)
        if number < N_DENSE:
            dense.append(merged(model, weights))
    rows = []
    with torch.inference_mode():
        check(bank, dense, options.dtype)
        for n_tenants in N_TENANTS:
            rows += measure(bank, dense, n_tenants, options)
    print(f"{max(N_TENANTS)} tenants hold {bank.size_bytes / 1e9:.2f} GB, a dense model {size(model) / 1e9:.2f} GB")
    if not options.quick:
        append(rows)


def draw(model: Decoder) -> TenantWeights:
    """A random fine-tune; differences of a hundredth of the weights' size."""
    products, vectors, tables = {}, {}, {}
    matrices = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Linear)}
    for name, weight in model.named_parameters():
        if name == "embedding.weight":
            rows = torch.randperm(len(weight))[: len(weight) // 64].sort().values
            tables[name] = ChangedRows(rows, weight.detach()[rows] * 1.1)
        elif name in matrices:
            n_outputs, n_inputs = weight.shape
            signs_PN = torch.randint(-(2**31), 2**31, (-(-n_inputs // 32), n_outputs), dtype=torch.int64).int()
            row_scale_N = (torch.rand(n_outputs) + 0.5) * 0.01 * float(weight.detach().abs().mean())
            products[name] = [SignTerm(signs_PN, row_scale_N=row_scale_N, column_scale_K=torch.rand(n_inputs) + 0.5)]
        else:
            vectors[name] = weight.detach() * 1.01
    return TenantWeights("random", products, tables, vectors)


def merged(base: Decoder, weights: TenantWeights) -> Decoder:
    """base + weights, dense."""
    own = copy.deepcopy(base)
    for name, weight in own.named_parameters():
        if name in weights.vectors:
            weight.data = weights.vectors[name].clone()
        for term in weights.products.get(name, []):
            signs_NK = unpack(term.signs_PN, weight.shape[1], torch.float32).T
            weight.data += (signs_NK * term.row_scale_N[:, None] * term.column_scale_K).to(weight.dtype)
        if name in weights.tables:
            weight.data[weights.tables[name].rows_R] = weights.tables[name].values_RD
    return own


def check(bank: TenantBank, dense: list[Decoder], dtype: str) -> None:
    """The same logits both ways, as far as the type goes."""
    runs = steps(bank, dense, len(dense))
    found, wanted = runs["ours"](), runs["dense"]()
    error = ((found - wanted).abs().max() / wanted.abs().max()).item()
    print(f"largest difference between the logits of both: {error:.1e} of the largest")
    assert error < (1e-4 if dtype == "float32" else 0.05)


def steps(bank: TenantBank, dense: list[Decoder], n_tenants: int) -> dict[str, Run]:
    """What is timed: logits of one more token of a row for each tenant; the states go on growing by it."""
    slots = torch.arange(n_tenants)
    prompts = torch.randint(0, bank.model.config.vocab_size, (n_tenants, N_READ))
    ids = torch.randint(0, bank.model.config.vocab_size, (n_tenants,))
    base_slots = torch.full((n_tenants,), -1)
    parts = [read(bank, slot, prompts[slot : slot + 1]) for slot in range(n_tenants)]
    shared, of_base, own = join(parts), join(parts), [join([part]) for part in parts]

    def by_bank(tenants: Tensor, states: DecoderStates) -> Tensor:
        with bank.rows(tenants):
            return bank.model.step(ids, states)

    def in_turn() -> Tensor:
        models = (dense[number % len(dense)] for number in range(n_tenants))
        return torch.cat([model.step(ids[i : i + 1], own[i]) for i, model in enumerate(models)])

    return {"ours": lambda: by_bank(slots, shared), "base alone": lambda: by_bank(base_slots, of_base), "dense": in_turn}


def read(bank: TenantBank, slot: int, prompt: Tensor) -> DecoderStates:
    states = bank.model.empty_states(1)
    with bank.rows(torch.tensor([slot])):
        bank.model.prefill(prompt, states)
    return states


def measure(bank: TenantBank, dense: list[Decoder], n_tenants: int, options: argparse.Namespace) -> list[dict[str, str]]:
    clock = time.process_time if options.threads == 1 else time.perf_counter
    runs = steps(bank, dense, n_tenants)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(options.rounds + 2):
        for name, run in runs.items():
            started = clock()
            run()
            if round_number > 1:
                times[name].append((clock() - started) * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    config = bank.model.config
    notes = f"peer: {n_tenants} dense models in turn; base alone {medians['base alone']:.4g} ms"
    notes += f"; p10-p90 ours {spread(times['ours'])}, peer {spread(times['dense'])}"
    where = f"{n_tenants} tenants {config.layers} d{config.d_model} {options.dtype}"
    what = "one token of each tenant" + (" (CPU time)" if options.threads == 1 else "")
    return [row(what, where, medians["ours"], "ms", medians["dense"], notes, options.threads)]


def size(model: Decoder) -> int:
    return sum(weight.nbytes for weight in model.parameters())


if __name__ == "__main__":
    main()
