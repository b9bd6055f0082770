"""Whether a model may go on from a state that was kept: a text read in pieces must give what it gives when read at once."""

from __future__ import annotations

import torch

from tilth.inference.cache.quantized import Exact, Int8, StateForm
from tilth.inference.engine.recurrent import Checkpoint, layers_of, tensors_of
from tilth.models.decoder import Decoder
from tilth.models.states import AttentionState, DecoderStates

PIECES = (1, 2, 30, 64, 3, 1, 28)
"""Around the ends of a scan's chunk and of a convolution's taps; 129 tokens in all."""
# Of the largest logit. Some released models differ by 0.01 and answer wrongly after a resume; 16 bits round at every layer.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 5e-2, torch.float16: 1e-2}
ROUNDING_TOLERANCE = 2e-2


@torch.inference_mode()
def resuming_error(model: Decoder, form: StateForm | None = None) -> float:
    """The largest difference of the logits after each piece from those of the whole, as a part of the largest logit.

    With `form` the recurrent states have rested in it after each piece.
    """
    generator = torch.Generator().manual_seed(0)
    ids_1T = torch.randint(0, model.config.vocab_size, (1, sum(PIECES)), generator=generator).to(model.embedding.weight.device)
    whole_TV = model(ids_1T)[0].float()
    states = model.empty_states(1)
    worst, end = 0.0, 0
    for n_tokens in PIECES:
        logits_V = model.prefill(ids_1T[:, end : end + n_tokens], states)[0].float()
        end += n_tokens
        if form is not None:
            _let_rest(states, model.config.pattern, form)
        worst = max(worst, float((logits_V - whole_TV[end - 1]).abs().max()))
    error = worst / max(1.0, float(whole_TV.abs().max()))
    return error if whole_TV.isfinite().all() else float("nan")


def why_not_resumable(model: Decoder) -> str:
    """What forbids keeping states of this model; empty where nothing does."""
    tolerance = TOLERANCES[model.embedding.weight.dtype]
    error = resuming_error(model)
    if error <= tolerance:
        return ""
    return f"reading a text in pieces changes the model's logits by {error:.1e} of the largest, more than {tolerance:.0e}"


def form_for(model: Decoder, in_8_bits: bool) -> tuple[StateForm, str]:
    """How checkpoints rest in the cache, and what an operator should know of it: 8 bits only where the logits bear them."""
    if not in_8_bits:
        return Exact(), ""
    error = resuming_error(model, Int8())
    if error <= ROUNDING_TOLERANCE:
        return Int8(), f"checkpoints rest in 8 bits: resuming changes the logits by {error:.1e} of the largest"
    return Exact(), (
        f"checkpoints rest in full precision: 8 bits would change the logits by {error:.1e} of the largest, "
        f"more than {ROUNDING_TOLERANCE:.0e}"
    )


def _let_rest(states: DecoderStates, pattern: str, form: StateForm) -> None:
    held: Checkpoint = [t for layer in states.layers if not isinstance(layer, AttentionState) for t in tensors_of(layer)]
    for number, layer in layers_of(pattern, form.unpack(form.pack(held))).items():
        states.layers[number] = layer
