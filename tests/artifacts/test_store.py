"""The store: an output is made once, whole or not at all, whatever dies in between."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.artifacts import Spec, Store, difference
from tilth.artifacts.fingerprints import Fingerprints
from tilth.errors import ContractError, NotFoundError, RecipeError, StoreError


def spec(**changes: Any) -> Spec:
    return Spec(**{"step": "read", "version": 1, "params": {"threshold": 0.7}, "inputs": {"a": "1"}, **changes})


def write_text(text: str) -> Any:
    def write(folder: Path) -> dict[str, int]:
        (folder / "text.txt").write_text(text)
        return {"n_chars": len(text)}

    return write


def test_an_output_is_made_once_and_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.make(spec(), write_text("hello"))
    again = store.make(spec(), lambda folder: pytest.fail("made twice"))
    assert again == made == store.find(spec())
    assert made.stats == {"n_chars": 5}
    assert (made.path / "text.txt").read_text() == "hello"
    assert made.size_bytes == 5


def test_the_digest_is_of_the_bytes_and_the_key_of_what_made_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, other = store.make(spec(), write_text("same")), store.make(spec(version=2), write_text("same"))
    assert one.digest == other.digest
    assert one.key != other.key
    assert store.make(spec(version=3), write_text("else")).digest != one.digest


def test_two_stores_hold_the_same_bytes(tmp_path: Path) -> None:
    folders = [Store(tmp_path / name).make(spec(), write_text("x")).path for name in ("one", "two")]
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ValueError("no")

    store = Store(tmp_path)
    with pytest.raises(ValueError, match="no"):
        store.make(spec(), fail)
    assert store.find(spec()) is None
    assert list((tmp_path / "partial").iterdir()) == []


DIE = """
import sys, os, signal, time
from pathlib import Path
from tilth.artifacts import Spec, Store
def write(folder):
    (folder / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
Store(sys.argv[1]).make(Spec("read", 1), write)
"""


def test_kill_9_leaves_a_partial_folder_that_is_swept_but_not_while_it_runs(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", DIE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    store = Store(tmp_path)
    assert store.sweep() == 0
    assert len(list((tmp_path / "partial").iterdir())) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert store.find(Spec("read", 1)) is None
    assert store.sweep() == 1
    assert store.make(Spec("read", 1), write_text("whole")).stats == {"n_chars": 5}


def count_and_wait(root: str) -> str:
    def write(folder: Path) -> None:
        time.sleep(0.5)
        (folder / "who").write_text(str(os.getpid()))

    return (Store(root).make(spec(), write).path / "who").read_text()


def test_processes_that_want_the_same_output_make_it_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        makers = pool.map(count_and_wait, [str(tmp_path)] * 3)
    assert len(set(makers)) == 1


@pytest.mark.parametrize("body", [b"", b'{"spec": ', b"[]", b'{"spec": {}}'])
def test_a_damaged_manifest_says_which_and_what_to_do(tmp_path: Path, body: bytes) -> None:
    store = Store(tmp_path)
    made = store.make(spec(), write_text("hello"))
    (made.path / "manifest.json").write_bytes(body)
    for look in (
        lambda: store.find(spec()),
        lambda: store.artifact(made.part()),
        lambda: store.make(spec(), write_text("hello")),
        lambda: store.load(made.path),
    ):
        with pytest.raises(StoreError, match=r"manifest\.json[\s\S]*check --repair"):
            look()
    assert store.folders() == [made.path]
    (made.path / "manifest.json").unlink()
    with pytest.raises(StoreError, match="damaged"):
        store.load(made.path)


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'{"kind": "corpus", "name": "demo", "meta": {}, "parts": [{"x": 1}]}'])
def test_a_damaged_name_says_which_and_what_to_do(tmp_path: Path, body: bytes) -> None:
    store = Store(tmp_path)
    store.save_named("corpus", "demo", [store.make(spec(), write_text("x")).part()])
    (tmp_path / "names" / "corpus" / "demo.json").write_bytes(body)
    with pytest.raises(StoreError, match=r"corpus/demo[\s\S]*demo\.json"):
        store.get_named("corpus", "demo")
    assert store.names("corpus") == ["demo"]
    assert store.names("run") == []


def test_what_is_discarded_goes_whole_even_if_that_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    made = store.make(spec(), write_text("hello"))

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        next(folder.rglob("manifest.json")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tilth.artifacts.store.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            store.discard(made.path)
    assert store.folders() == []
    assert (store.sweep(), store.make(spec(), write_text("hello")).digest) == (1, made.digest)
    with monkeypatch.context() as patch:
        patch.setattr("tilth.artifacts.store.shutil.rmtree", lambda folder, ignore_errors=False: ignore_errors or killed(folder))
        with pytest.raises(KeyboardInterrupt):
            store.discard_all()
    assert not store.root.exists()
    assert store.make(spec(), write_text("hello")).digest == made.digest
    store.discard_all()
    assert list(tmp_path.iterdir()) == []


def test_a_changed_file_is_found_by_its_checksum(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.make(spec(), write_text("hello"))
    store.verify(made)
    (made.path / "text.txt").write_text("hellO")
    with pytest.raises(ContractError, match="not what was published"):
        store.verify(made)


def test_a_missing_output_says_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.make(spec(), write_text("hello"))
    (made.path / "text.txt").unlink()
    (made.path / "manifest.json").unlink()
    with pytest.raises(StoreError, match="Build again"):
        store.artifact(made.part())


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    """A file-size limit stands in for a full disk: the kernel refuses the write in the same place."""
    code = (
        "import resource, signal, sys; from tilth.artifacts import Spec, Store; from tilth.errors import StoreError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: Store(sys.argv[1]).make(Spec('read', 1), lambda folder: (folder / 'big').write_bytes(b'x' * 10_000) and None)\n"
        "except StoreError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert "the disk is full; nothing that was finished is lost" in said
    assert "df -h" in said
    assert Store(tmp_path).find(Spec("read", 1)) is None


def test_names(tmp_path: Path) -> None:
    store = Store(tmp_path)
    part = store.make(spec(shard="web/00000"), write_text("x")).part()
    named = store.save_named("corpus", "demo", [part], {"n": 1})
    assert store.get_named("corpus", "demo") == named
    assert named.one("read") == part
    assert named.label.startswith("corpus/demo@")
    with pytest.raises(NotFoundError, match="Did you mean `demo`"):
        store.get_named("corpus", "dmo")
    with pytest.raises(RecipeError, match="cannot be a name"):
        store.save_named("corpus", "../up", [part])
    with pytest.raises(NotFoundError, match="has no `pick`"):
        named.one("pick")


def test_the_difference_names_what_changed() -> None:
    old = spec()
    assert difference(None, old) == "new"
    assert difference(old, spec(params={"threshold": 0.8})) == "threshold 0.7 -> 0.8"
    assert difference(old, spec(version=2)) == "step version 1 -> 2"
    assert difference(old, spec(inputs={"a": "2"})) == "input changed: a"
    assert difference(old, spec(libraries={"duckdb": "2"})) == "library duckdb null -> 2"
    assert difference(old, old) == "unchanged"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.text(min_size=1, max_size=4), values, max_size=3),
    st.dictionaries(st.text(min_size=1, max_size=4), values, max_size=3),
)
def test_equal_specs_have_equal_keys_and_others_do_not(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = Spec("s", 1, dict(reversed(one.items())))
    assert Spec("s", 1, one).key == same.key
    if repr(sorted(one.items(), key=repr)) != repr(sorted(other.items(), key=repr)) and one != other:
        assert Spec("s", 1, one).key != Spec("s", 1, other).key


def test_fingerprints_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path, read = tmp_path / "input", []
    path.write_text("one")
    os.utime(path, (1_000_000_000, 1_000_000_000))

    def compute(path: Path) -> str:
        read.append(path)
        return path.read_text()

    first = Fingerprints(tmp_path, compute)
    assert first(path) == "one"
    first.save()
    assert Fingerprints(tmp_path, compute)(path) == "one"
    assert len(read) == 1
    path.write_text("two")
    assert Fingerprints(tmp_path, compute)(path) == "two"
    fresh = Fingerprints(tmp_path, compute)
    assert fresh(path) == "two"
    assert len(read) == 3, "a file that changed a moment ago is read again"
