"""The one decoder: a pattern of mixers (attention, mamba2) over one residual stream; this page alone never imports torch."""

from __future__ import annotations

from tilth.models.config import ModelConfig

__all__ = ["ModelConfig"]
