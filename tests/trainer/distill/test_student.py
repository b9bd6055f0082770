"""A student is its teacher but for the replaced mixers, and these begin as linear attention."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.layout import lay_out
from tilth.models.presets import PRESETS
from tilth.models.weights import load_model, save_model
from tilth.trainer.distill.student import SHARE_OF_INPUTS, SHARE_OF_SCORES, make_student, replaced_layers, student_config

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


@pytest.fixture(autouse=True)
def _same_draws(fixed_seed: None) -> None:
    pass


def causal_linear_attention(qkv_BTR: np.ndarray, head_dim: int, n_heads: int, n_kv_heads: int) -> np.ndarray:
    """sum over s <= t of (q_t . k_s) v_s / sqrt(head_dim), a loop over rows, heads and tokens; (B, T, H, head_dim)."""
    heads = qkv_BTR.reshape(*qkv_BTR.shape[:2], -1, head_dim)
    q, k, v = np.split(heads, [n_heads, n_heads + n_kv_heads], axis=2)
    y = np.zeros_like(q)
    for b, t, h in np.ndindex(q.shape[:3]):
        group = h // (n_heads // n_kv_heads)
        for s in range(t + 1):
            y[b, t, h] += q[b, t, h] @ k[b, s, group] / math.sqrt(head_dim) * v[b, s, group]
    return y


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 1}, {"n_kv_heads": 4}, {"head_dim": 16}, {"d_ff": 0}], ids=str)
@pytest.mark.parametrize("letter", ["D", "M"])
def test_without_decay_its_scan_is_causal_linear_attention(
    letter: str, changes: dict[str, Any], make_model: Callable[..., Decoder]
) -> None:
    teacher = make_model("A", **changes).double()
    old, config = teacher.config, student_config(teacher.config, letter)
    assert config.expand * config.d_model == old.n_heads * old.attention_head_dim
    mixer: Any = make_student(teacher, config).blocks[0].mixer
    x_BTD = torch.randn(2, 15, 32, dtype=torch.float64)
    rows, inner = mixer.in_proj(x_BTD), config.d_inner
    start = 0 if letter == "D" else inner
    x, B, C = (rows[..., start + i * inner : start + (i + 1) * inner].unflatten(-1, (4, -1)) for i in range(3))
    no_decay, whole_step = torch.zeros(4, dtype=torch.float64), torch.ones(2, 15, 4, dtype=torch.float64)
    layout = lay_out(config, torch.zeros(2, 15, dtype=torch.long), None, 0)
    found = mixer.scan(x, whole_step, no_decay, B, C, layout, None, False).detach().numpy()
    found = found / {"D": SHARE_OF_SCORES, "M": SHARE_OF_INPUTS**3}[letter]
    attention: Any = teacher.blocks[0].mixer
    qkv = attention.qkv_proj(x_BTD).detach().numpy()
    wanted = causal_linear_attention(qkv, old.attention_head_dim, old.n_heads, old.kv_heads)
    assert np.abs(found - wanted).max() < 1e-12 * max(1.0, np.abs(wanted).max())
    assert torch.equal(mixer.out_proj.weight, attention.out_proj.weight)


def test_its_gate_is_open_on_what_the_layer_reads(make_model: Callable[..., Decoder]) -> None:
    """What the layer reads has a mean, of which the gate of M is made 1: that of D is by its bias."""
    teacher = make_model("AA", residual="ladder", scale=1.0)
    with torch.no_grad():
        teacher.embedding.weight += 3 * torch.randn(32) / math.sqrt(32)
    student = make_student(teacher, student_config(teacher.config, "MA"))
    x_BTD: Any = teacher.blocks[0].get_submodule("mixer_norm")(teacher.embedding(torch.randint(0, 43, (4, 50))))
    gates: Any = torch.nn.functional.silu(student.blocks[0].get_submodule("mixer.in_proj")(x_BTD)[..., :32])
    assert abs(gates.mean() - 1) < 0.1
    assert gates.std() < 0.5
    drawn = make_student(teacher, student_config(teacher.config, "MA"), from_attention=False)
    closed: Any = torch.nn.functional.silu(drawn.blocks[0].get_submodule("mixer.in_proj")(x_BTD)[..., :32])
    assert abs(closed.mean() - 1) > 0.5


def test_what_is_not_replaced_is_copied_to_the_bit_and_shares_no_memory(make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AMAA", tie_embeddings=False, rope_scaling=LLAMA3, d_state=8, ssm_head_dim=8, n_groups=4, expand=1)
    student = make_student(teacher, student_config(teacher.config, "DMAM"))
    assert student.config.pattern == "DMAM"
    assert student.config.rope_scaling == LLAMA3
    old, new = teacher.state_dict(), student.state_dict()
    replaced = ("blocks.0.mixer.", "blocks.3.mixer.")
    kept = [name for name in new if not name.startswith(replaced)]
    assert kept == [name for name in old if not name.startswith(replaced)]
    for name in kept:
        assert torch.equal(new[name], old[name])
        assert new[name].data_ptr() != old[name].data_ptr()
    assert replaced_layers(teacher.config, student.config) == (0, 3)
    ids = torch.randint(0, 43, (2, 12))
    before = teacher(ids)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert torch.equal(teacher(ids), before)


def test_a_student_of_the_same_layers_is_its_teacher(make_model: Callable[..., Decoder]) -> None:
    teacher, ids = make_model("AMA"), torch.randint(0, 43, (2, 12))
    config = student_config(teacher.config, "AMA")
    assert config == teacher.config
    assert torch.equal(make_student(teacher, config)(ids), teacher(ids))


def test_a_ladder_of_the_same_weights(make_model: Callable[..., Decoder]) -> None:
    teacher, ids = make_model("AA"), torch.randint(0, 43, (2, 12))
    student = make_student(teacher, student_config(teacher.config, "AA", {"residual": "ladder", "residual_from": 1}))
    assert student.config.residual == "ladder"
    assert all(torch.equal(weight, teacher.state_dict()[name]) for name, weight in student.state_dict().items())
    assert (student(ids) - teacher(ids)).abs().max() > 1e-3


def test_step_by_step_is_at_once(make_model: Callable[..., Decoder]) -> None:
    """A*4 -> ADAD -> D*4: the layers replaced later have the weights that they would have had at first."""
    teacher = make_model("A*4")
    half = make_student(teacher, student_config(teacher.config, "ADAD"))
    torch.manual_seed(0)
    later = make_student(half, student_config(half.config, "D*4"))
    torch.manual_seed(0)
    sooner = make_student(half, student_config(teacher.config, "D*4"))
    at_once = make_student(teacher, student_config(teacher.config, "D*4"))
    assert later.config == sooner.config == at_once.config
    assert all(torch.equal(weight, sooner.state_dict()[name]) for name, weight in later.state_dict().items())
    for number in range(4):
        found, wanted = (model.state_dict()[f"blocks.{number}.mixer.in_proj.weight"][:96] for model in (later, at_once))
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("letter", ["D", "M", "S"])
def test_drawn_anew_it_is_as_a_new_model_is(letter: str, make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AA", scale=1.0)
    student = make_student(teacher, student_config(teacher.config, 2 * letter), from_attention=False)
    fresh = Decoder(student.config).state_dict()
    for name, weight in student.state_dict().items():
        assert weight.shape == fresh[name].shape
        if "proj.weight" in name:
            assert weight.std().item() == pytest.approx(fresh[name].std().item(), rel=0.1)
    out = student.state_dict()["blocks.0.mixer.out_proj.weight"]
    assert out.abs().max() <= 1 / math.sqrt(out.shape[1] * student.config.n_sublayers)


def test_of_a_teacher_in_half_precision_it_is_in_fp32(make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AA").to(torch.bfloat16)
    student = make_student(teacher, student_config(teacher.config, "DA"))
    assert {weight.dtype for weight in student.state_dict().values()} == {torch.float32}
    old, mixer = teacher.state_dict()["blocks.0.mixer.qkv_proj.weight"], student.state_dict()["blocks.0.mixer.in_proj.weight"]
    # q is scaled in fp32: it would not be a value of bf16
    torch.testing.assert_close(mixer[64:96], old[:32].float() * SHARE_OF_SCORES / math.sqrt(8), rtol=1e-6, atol=0)
    assert torch.equal(student.state_dict()["norm.weight"], teacher.state_dict()["norm.weight"].float())


def test_it_is_saved_and_read_as_any_model(tmp_path: Path, make_model: Callable[..., Decoder]) -> None:
    teacher, ids = make_model("A*3", tie_embeddings=False), torch.randint(0, 43, (2, 12))
    student = make_student(teacher, student_config(teacher.config, "DAM"))
    save_model(tmp_path, student)
    assert torch.equal(load_model(tmp_path)(ids), student(ids))
    marks = (
        {n for n, p in m.named_parameters() if getattr(p, "_no_weight_decay", False)} for m in (student, Decoder(student.config))
    )
    assert len({frozenset(names) for names in marks}) == 1
    states = student.empty_states(2)
    student.prefill(ids[:, :11], states)
    torch.testing.assert_close(student.step(ids[:, 11], states), student(ids)[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", ["llama-1b", "llama-3b", "llama-8b"])
@pytest.mark.parametrize("letter", ["D", "M"])
def test_of_a_llama_the_new_mixers_are_as_large_as_attention_with_its_keys_repeated(preset: str, letter: str) -> None:
    teacher = ModelConfig(**PRESETS[preset])
    student = student_config(teacher, f"{letter}*{len(teacher.pattern)}")
    assert (student.expand, student.n_ssm_heads, student.n_groups) == (1, teacher.n_heads, teacher.n_heads)
    grown = student.n_parameters() - teacher.n_parameters()
    # q, k, v, o and a gate, each d_model by d_model, instead of 2 + 2 / group, and few others
    d, group = teacher.d_model, teacher.n_heads // teacher.kv_heads
    assert grown / len(teacher.pattern) == pytest.approx(d * d * (3 - 2 / group), rel=0.02)


@pytest.mark.parametrize(
    ("layers", "changes", "message"),
    [
        ("DD", {}, "the student has 2 layers, its teacher 3"),
        ("DDX", {}, "has 'X', which is no mixer"),
        ("DDD", {"d_model": 64}, "a student has the `d_model` of its teacher"),
        ("DDD", {"layers": "AAA"}, "a student has the `layers` of its teacher"),
        ("DDD", {"d_stat": 4}, "a model has no setting `d_stat`"),
    ],
)
def test_a_config_that_cannot_be_is_refused(
    layers: str, changes: dict[str, Any], message: str, make_model: Callable[..., Decoder]
) -> None:
    with pytest.raises(RecipeError, match=message):
        student_config(make_model("AAA").config, layers, changes)


def test_heads_that_fill_no_multiple_of_the_width_are_refused_unless_drawn_anew(make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AAA", head_dim=12)
    with pytest.raises(
        RecipeError, match="layer 1 of the student does not fit its teacher: 4 heads of 12 are no multiple of d_model=32"
    ):
        student_config(teacher.config, "ADA")
    config = student_config(teacher.config, "ADA", {"expand": 2, "ssm_head_dim": 16, "n_groups": 4, "d_state": 12})
    with pytest.raises(RecipeError, match=r"layer 1 .* the attention of 4 heads of 12 does not fit: ssm_head_dim=16, not 12"):
        make_student(teacher, config)
    assert make_student(teacher, config, from_attention=False)(torch.zeros(1, 3, dtype=torch.long)).isfinite().all()


def test_a_layer_that_does_not_fit_is_named(make_model: Callable[..., Decoder]) -> None:
    hybrid = make_model("AMA")
    with pytest.raises(RecipeError, match=r"layer 2 .* the attention of 4 heads of 8 does not fit: ssm_head_dim=16, not 8"):
        make_student(hybrid, student_config(hybrid.config, "AMD"))
    with pytest.raises(RecipeError, match=r"layer 1 .* it is copied, and has other shapes: d_state=8 -> 16"):
        make_student(hybrid, student_config(hybrid.config, "AMD", {"d_state": 16}), from_attention=False)
    with pytest.raises(RecipeError, match=r"layer 1 .* M cannot become D"):
        make_student(hybrid, student_config(hybrid.config, "ADA"))
    assert make_student(hybrid, student_config(hybrid.config, "AMD"), from_attention=False).config.pattern == "AMD"


def test_a_model_of_another_kind_is_refused(make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AA")
    config = dataclasses.replace(student_config(teacher.config, "DD"), d_ff=64, norm_eps=1e-6)
    with pytest.raises(RecipeError, match=r"model.d_ff: 48 -> 64; model.norm_eps: 1e-05 -> 1e-06"):
        make_student(teacher, config)
    both_ways = make_model("AA", bidirectional=True)
    with pytest.raises(RecipeError, match="cut into shards or reads both ways"):
        make_student(both_ways, student_config(both_ways.config, "DD"))
