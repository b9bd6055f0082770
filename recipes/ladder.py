"""Ladder-Residual: every sublayer reads the stream without the output before it, so that its all-reduce is hidden.

Two models of equal parameters, data and steps; then the trained standard one made into a ladder in its upper half, beside
a control that trains on for as long (Zhang et al. 2025).

tilth build demo
tilth pick clean "is_keeper and ..." --from demo
tilth train ladder:standard
tilth train ladder:ladder
tilth train ladder:converted
tilth train ladder:control
tilth report
Over several processes each holds a slice of every layer: torchrun --nproc-per-node 2 -m tilth train ladder:ladder ranks=2
"""

from tilth import Train

LAYERS = 8


def standard(subset: str = "clean", steps: int = 150, ranks: int = 1, seed: int = 0) -> Train:
    """A transformer with the usual residual."""
    return Train(subset=subset, model=_model("standard"), settings=_settings(steps, ranks, seed))


def ladder(subset: str = "clean", steps: int = 150, ranks: int = 1, seed: int = 0) -> Train:
    """The same model as a ladder: the same parameters in another topology."""
    return Train(subset=subset, model=_model("ladder"), settings=_settings(steps, ranks, seed))


def converted(subset: str = "clean", initial: str = "standard", steps: int = 15, ranks: int = 1, seed: int = 1) -> Train:
    """The trained standard model, a ladder from its middle layer on, healed with a tenth of the steps."""
    model = {"residual": "ladder", "residual_from": LAYERS // 2}
    return Train(subset=subset, initial=initial, model=model, settings=_settings(steps, ranks, seed, lr=1e-3))


def control(subset: str = "clean", initial: str = "standard", steps: int = 15, ranks: int = 1, seed: int = 1) -> Train:
    """The trained standard model as it is, with the same steps on the same batches."""
    return Train(subset=subset, initial=initial, settings=_settings(steps, ranks, seed, lr=1e-3))


def _model(residual: str) -> dict:
    return {"layers": f"A*{LAYERS}", "d_model": 128, "n_heads": 4, "residual": residual}


def _settings(steps: int, ranks: int, seed: int, lr: float = 3e-3) -> dict:
    return {
        "steps": steps,
        "seq_len": 256,
        "global_batch": 8,
        "lr": lr,
        "warmup_steps": max(steps // 10, 1),
        "checkpoint_every": 50,
        "eval_every": 50,
        "tensor_parallel": ranks,
        "seed": seed,
    }
