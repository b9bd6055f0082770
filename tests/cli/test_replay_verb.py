"""`tilth replay` as typed: its forms, what it keeps in a project, its page, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tilth.artifacts import Spec, Store
from tilth.catalog.sql import run_sql
from tilth.cli.replay_verbs import replay
from tilth.errors import UserError
from tilth.models import ModelConfig
from tilth.report import write_report

SHORT = ("--synthetic", "lmsys", "--limit", "60", "--policy", "vllm+,lru", "--capacity", "500MB,2GB")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No project."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(*words: str) -> Result:
    return CliRunner().invoke(replay, list(words))


def test_json_csv_and_table_tell_the_same(folder: Path) -> None:
    answer = json.loads(typed(*SHORT, "--json").stdout)
    cells = answer["cells"]
    assert [(cell["policy"], cell["capacity_bytes"]) for cell in cells] == [
        (policy, capacity) for capacity in (500_000_000, 2_000_000_000) for policy in ("vllm+", "lru")
    ]
    assert (answer["n_requests"], answer["model"], answer["is_instant"]) == (60, "marconi-7b", False)
    assert all(0 <= cell["token_hit_rate"] <= 1 and cell["high_water_bytes"] <= cell["capacity_bytes"] for cell in cells)
    lines = list(csv.DictReader(typed(*SHORT, "--csv").stdout.splitlines()))
    for line, cell in zip(lines, cells, strict=True):
        assert {name: line[name] for name in line if name != "cpu_seconds"} == {
            name: str(value) for name, value in cell.items() if name != "cpu_seconds"
        }
    table = typed(*SHORT).stdout.splitlines()
    assert len(table) == 5
    assert [f"{100 * cell['token_hit_rate']:.2f} %" in line for line, cell in zip(table[1:], cells, strict=True)] == [True] * 4
    assert not list(folder.iterdir()), "outside a project nothing is kept"


def test_more_capacity_and_smaller_states_save_more(folder: Path) -> None:
    found = json.loads(typed("--synthetic", "lmsys", "--limit", "300", "--policy", "lru", "--int8", "--instant", "--json").stdout)
    rates = {(cell["policy"], cell["capacity_bytes"]): cell["token_hit_rate"] for cell in found["cells"]}
    assert {policy for policy, _ in rates} == {"lru", "lru+int8"}
    for policy in ("lru", "lru+int8"):
        by_capacity = [rates[policy, int(gigabytes * 1e9)] for gigabytes in (1, 2, 5, 10)]
        assert by_capacity == sorted(by_capacity)
    assert rates["lru+int8", 5 * 10**9] > rates["lru", 5 * 10**9]


@pytest.mark.slow
def test_a_project_keeps_it_and_its_report_shows_it(folder: Path) -> None:
    (folder / ".tilth").mkdir()
    said = typed(*SHORT)
    assert re.search(r"kept as replay/lmsys@\w+", said.stderr)
    store = Store(folder / ".tilth")
    assert run_sql(store, "select trace, model, n_requests from replays").to_pylist() == [
        {"trace": "lmsys", "model": "marconi-7b", "n_requests": 60}
    ]
    cell = store.get_named("replay", "lmsys").meta["cells"][3]
    page = write_report(store, folder / "report.html").read_text()
    assert "replay-hits-lmsys" in page
    assert f'data-name="replay/lmsys/lru/2000000000/token_hit_rate" data-value="{cell["token_hit_rate"]}"' in page


def test_a_page_needs_no_project(folder: Path) -> None:
    said = typed(*SHORT, "--report", "out.html")
    assert said.exit_code == 0, said.output
    page = (folder / "out.html").read_text()
    assert "replay-hits-lmsys" in page
    assert "https://" not in page.split("<main>")[1].split("</main>")[0]


def test_the_model_may_be_a_config(folder: Path) -> None:
    config = ModelConfig(vocab_size=256, d_model=64, layers="MMMA", n_heads=2)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    found = json.loads(typed(*SHORT, "--model", "config.json", "--json").stdout)
    # keys and values of 2 heads of 32 channels in fp32; three layers of fp32 states and what their convolutions remember
    assert found["kv_bytes"] == 2 * 64 * 4
    assert found["checkpoint_bytes"] == 3 * (128 * 64 + 3 * (128 + 2 * 64)) * 4
    assert found["int8_checkpoint_bytes"] == 3 * (128 * 64 + 128 * 4 + 3 * (128 + 2 * 64) * 4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give either a TRACE or"),
        (("a.jsonl", "--synthetic", "lmsys"), "give either a TRACE or"),
        ((*SHORT, "--json", "--csv"), "exclude each other"),
        ((*SHORT, "--capacity", "5 apples"), "is no size"),
        ((*SHORT, "--report", "no/such/out.html"), "does not exist"),
        (("a.jsonl",), "there is no such trace"),
        (("--synthetic", "lmsy"), "Did you mean `lmsys`"),
        ((*SHORT, "--policy", "lruu"), "Did you mean `lru`"),
        ((*SHORT, "--policy", "vllm++int8"), "are kept as they are"),
        ((*SHORT, "--capacity", "0GB"), "0 bytes hold nothing"),
        ((*SHORT, "--model", "moder"), "Did you mean `modern`"),
        ((*SHORT, "--flops", "0"), "speed above 0"),
    ],
)
def test_what_cannot_be_replayed_is_refused(folder: Path, words: tuple[str, ...], said: str) -> None:
    result = typed(*words)
    assert result.exit_code
    assert said in result.output + str(result.exception)
    assert result.exit_code == 2 or isinstance(result.exception, UserError)


def test_a_run_of_the_project_gives_its_own_sizes(folder: Path) -> None:
    store = Store(folder / ".tilth")
    config = ModelConfig(vocab_size=290, d_model=32, layers="MA", n_heads=2, d_state=16, ssm_head_dim=32)
    spec = Spec("train", 1, {})
    made = store.make(spec, lambda out: {"n": (out / "config.json").write_text(json.dumps(config.to_dict()))})
    store.save_named("run", "mine", [made.part()])
    answer = json.loads(typed(*SHORT, "--model", "mine", "--json").stdout)
    assert answer["kv_bytes"] == 2 * 32 * 4


def test_a_trace_without_contents_is_said_to_share_nothing(folder: Path) -> None:
    lines = [f"2023-11-16 18:17:0{i}.0,20,3" for i in range(4)]
    (folder / "azure.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n")
    assert "nothing can be shared" in typed("azure.csv", "--policy", "lru", "--capacity", "1GB").stderr
