"""Mamba-2 with one layer of attention in eight, beside the two pure models of the same width, on a subset of your corpus.

tilth build demo
tilth pick clean "is_keeper and ..." --from demo
tilth train hybrid:hybrid
tilth train hybrid:mamba2
tilth train hybrid:transformer
tilth report
"""

from tilth import Train


def hybrid(subset: str = "clean", steps: int = 150, d_model: int = 128, seed: int = 0) -> Train:
    """Seven layers of Mamba-2 and one of attention, no positions: the order comes from the recurrence."""
    return _train("MMMMAMMM", subset, steps, d_model, seed)


def mamba2(subset: str = "clean", steps: int = 150, d_model: int = 128, seed: int = 0) -> Train:
    """The same width and depth without attention."""
    return _train("M*8", subset, steps, d_model, seed)


def transformer(subset: str = "clean", steps: int = 150, d_model: int = 128, seed: int = 0) -> Train:
    """The same width and depth of attention alone, with rotary positions."""
    return _train("A*8", subset, steps, d_model, seed)


def _train(layers: str, subset: str, steps: int, d_model: int, seed: int) -> Train:
    model = {
        "layers": layers,
        "d_model": d_model,
        "n_heads": 2,
        "d_state": 32,
        "ssm_head_dim": 64,
        "rope_theta": None if "M" in layers else 10_000.0,
    }
    settings = {
        "steps": steps,
        "seq_len": 256,
        "global_batch": 8,
        "lr": 3e-3,
        "warmup_steps": max(steps // 10, 1),
        "decay": "wsd",
        "decay_share": 0.2,
        "checkpoint_every": 50,
        "eval_every": 50,
        "document_losses": True,
        "seed": seed,
    }
    return Train(subset=subset, model=model, settings=settings)
