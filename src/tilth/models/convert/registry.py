"""The formats by name; which one a config belongs to, and which one can hold a model of ours."""

from __future__ import annotations

from typing import Any, NoReturn

from tilth.errors import SourceError, did_you_mean
from tilth.models.config import ModelConfig
from tilth.models.convert.caduceus import CADUCEUS
from tilth.models.convert.hf_hybrid import BAMBA, GRANITE, write_bamba, write_granite
from tilth.models.convert.hf_llama import LLAMA, write_llama
from tilth.models.convert.hf_mamba import MAMBA, MAMBA2, write_mamba, write_mamba2
from tilth.models.convert.llamba import LLAMBA
from tilth.models.convert.mamba_in_llama import MAMBA_IN_LLAMA
from tilth.models.convert.mamba_ssm import MAMBA_SSM
from tilth.models.convert.parts import Format, Settings
from tilth.models.pattern import MIXERS

# Under their model_type, where they have one
FORMATS: dict[str, Format] = {
    "llama": LLAMA,
    "mamba": MAMBA,
    "mamba2": MAMBA2,
    "bamba": BAMBA,
    "granitemoehybrid": GRANITE,
    "llamba": LLAMBA,
    "caduceus": CADUCEUS,
    "mamba_ssm": MAMBA_SSM,
    "mamba_in_llama": MAMBA_IN_LLAMA,
}


def recognise(settings: Settings) -> Format:
    """The format of a config.json. Raises SourceError where no format here reads it, or where it is quantised."""
    if settings.get("quantization_config"):
        fix = "save it dequantised first; in transformers: `model.dequantize()`, then `model.save_pretrained(DIR)`"
        raise SourceError("the checkpoint is quantised", "config.json", fix)
    name = settings.get("model_type")
    if "mamba_config" in settings:
        name = "mamba_in_llama"
    elif name in (None, "mamba") and "d_model" in settings:
        name = "mamba_ssm"
    if name not in FORMATS:
        raise SourceError(f"no format here reads model_type = {name!r}", "config.json", did_you_mean(str(name), FORMATS))
    return FORMATS[str(name)]


def choose_export(config: ModelConfig) -> tuple[Format, dict[str, Any]]:
    """The HF class that computes what a model of ours does, and its config. Raises SourceError with the reason for none."""
    if config.residual != "standard":
        _refuse(f"the residual is {config.residual!r}", "a class whose sublayers read an older stream")
    if config.bidirectional or config.rcps:
        _refuse("it reads both ways", "a masked language model over Mamba (Caduceus is remote code)")
    if config.n_classes:
        _refuse("it has a head of classes", "that head left out: export the run that it was fine-tuned from")
    letters = set(config.pattern)
    if letters == {"S"} and not config.mlp_width:
        return MAMBA, write_mamba(config)
    if letters == {"S"}:
        _refuse("its Mamba layers have MLPs", "Mamba with them; train it with d_ff=0")
    if other := " and ".join(MIXERS[letter] for letter in sorted(letters - {"M", "A"})):
        _refuse(f"it has {other} layers", "a class that holds these layers among others, or with MLPs")
    if letters == {"M"} and not config.mlp_width:
        return MAMBA2, write_mamba2(config)
    if "A" not in letters or config.rope_theta is None:
        return GRANITE, write_granite(config)
    if letters == {"A"} and config.mlp_width and config.rope_share == 1 and config.d_model % config.n_heads == 0:
        return LLAMA, write_llama(config)
    return BAMBA, write_bamba(config)


def _refuse(problem: str, needed: str) -> NoReturn:
    raise SourceError(
        f"no class of HF can express this model: {problem}", fix=f"it would need {needed}; `tilth.load_model` reads it"
    )
