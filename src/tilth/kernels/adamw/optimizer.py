"""`FusedAdamW`: AdamW as an optimizer whose checkpoints torch.optim.AdamW loads, and the other way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tilth.kernels.adamw import adamw_step

_OF_TORCH = {
    "amsgrad": False,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    "decoupled_weight_decay": True,
}
"""What torch.optim.AdamW keeps in its groups beside our own numbers, so that it finds all it needs in our checkpoints."""


class FusedAdamW(torch.optim.Optimizer):
    """AdamW by `adamw_step`: steps like torch.optim.AdamW, to rounding, with the same state by the same names.

    `moment_dtype`: of both moments; that of each parameter where not given, as in torch. `stochastic_rounding` and `seed`
    are those of `adamw_step`; the index of a parameter is its place among all groups. The step is counted on the CPU.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        moment_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        seed: int = 0,
        backend: str | None = None,
    ) -> None:
        if moment_dtype not in (None, torch.float32, torch.bfloat16):
            raise ValueError(f"moment_dtype is {moment_dtype}; expected torch.float32, torch.bfloat16 or None")
        self._moment_dtype = moment_dtype
        self._stochastic_rounding, self._seed, self._backend = stochastic_rounding, seed, backend
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **_OF_TORCH})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, grad_scale: Tensor | None = None) -> Any:  # type: ignore[override]
        """Step every parameter that has a gradient, times `grad_scale` where given; return what `closure` returned.

        Raises ValueError for gradients or options that `adamw_step` does not take.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        n_before = 0
        for group in self.param_groups:
            for step, members in self._by_step(group["params"]).items():
                parameters = [parameter for _, parameter in members]
                adamw_step(
                    parameters,
                    [parameter.grad for parameter in parameters],
                    *([self.state[parameter][name] for parameter in parameters] for name in ("exp_avg", "exp_avg_sq")),
                    step=step,
                    lr=group["lr"],
                    betas=group["betas"],
                    eps=group["eps"],
                    weight_decay=group["weight_decay"],
                    grad_scale=grad_scale,
                    stochastic_rounding=self._stochastic_rounding,
                    seed=self._seed,
                    tensor_indices=[n_before + place for place, _ in members],
                    backend=self._backend,
                )
            n_before += len(group["params"])
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class or of torch.optim.AdamW; moments keep their own dtype, not the parameter's.

        Raises ValueError for one made with amsgrad or maximize.
        """
        for option in ("amsgrad", "maximize"):
            if any(group.get(option) for group in state_dict["param_groups"]):
                raise ValueError(f"state_dict was made with {option}, which FusedAdamW does not have")
        super().load_state_dict(state_dict)
        names = [name for group in state_dict["param_groups"] for name in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for name, parameter in zip(names, parameters, strict=True):
            for key, saved in state_dict["state"].get(name, {}).items():
                if key == "step":
                    self.state[parameter][key] = torch.as_tensor(saved, dtype=torch.float32).cpu().clone()
                else:
                    dtype = self._dtype_of_moments(parameter)
                    self.state[parameter][key] = torch.empty_like(parameter, dtype=dtype).copy_(saved)

    def _by_step(self, parameters: list[Tensor]) -> dict[int, list[tuple[int, Tensor]]]:
        """Count one more step for every parameter that has a gradient; return (place, parameter) of those by the step."""
        found: dict[int, list[tuple[int, Tensor]]] = {}
        for place, parameter in enumerate(parameters):
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                for name in ("exp_avg", "exp_avg_sq"):
                    state[name] = torch.zeros_like(parameter, dtype=self._dtype_of_moments(parameter))
            state["step"] += 1
            found.setdefault(int(state["step"]), []).append((place, parameter))
        return found

    def _dtype_of_moments(self, parameter: Tensor) -> torch.dtype:
        return self._moment_dtype or parameter.dtype
