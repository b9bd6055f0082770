"""The catalog file among real other processes: readers, writers, killed writers, two publishers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from tilth.artifacts import Store
from tilth.catalog import publish as publish_module
from tilth.catalog.publish import is_current, publish
from tilth.errors import StoreError

# A program that obeys one line of Python at a time and answers with one line, like somebody's notebook.
OTHER_PROGRAM = """
import sys, duckdb
path = sys.argv[1]
for line in sys.stdin:
    try:
        done = eval(line, globals())
        if hasattr(done, "fetchall"):
            done = done.fetchall()
        print(repr(done), flush=True)
    except BaseException as error:
        print("ERROR", type(error).__name__, str(error).replace(chr(10), " "), flush=True)
"""

PUBLISHER = """
import sys
from tilth.artifacts import Store
from tilth.catalog.publish import publish
print(publish(Store(sys.argv[1])).name)
"""

READER = """
import sys, duckdb
for _ in range(60):
    c = duckdb.connect(sys.argv[1], read_only=True)
    print(c.execute("select recipe, count(*) from corpora, demo group by all").fetchall())
    c.close()
"""


class OtherProgram:
    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER_PROGRAM, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def open(self, read_only: bool) -> str:
        return self.ask(f"globals().__setitem__('c', duckdb.connect(path, read_only={read_only}))")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()
        self.process.wait(timeout=20)


@pytest.fixture
def program(store: Store) -> Iterator[Callable[[], OtherProgram]]:
    started: list[OtherProgram] = []

    def start() -> OtherProgram:
        started.append(OtherProgram(link_of(store)))
        return started[-1]

    yield start
    for each in started:
        each.close()


def link_of(store: Store) -> Path:
    return store.root / "catalog" / "catalog.duckdb"


def fresh(store: Store) -> dict[str, object]:
    with duckdb.connect(str(link_of(store)), read_only=True) as connection:
        names = {name for (name,) in connection.execute("select view_name from duckdb_views() where not internal").fetchall()}
        tables = {name for (name,) in connection.execute("select table_name from duckdb_tables()").fetchall()}
        corpora = [name for (name,) in connection.execute("select name from corpora order by 1").fetchall()]
    return {"names": names | tables, "corpora": corpora}


def files(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "catalog").iterdir())


def test_file_answers_as_the_memory_does(store: Store, demo, lineage):
    path = publish(store)
    assert os.readlink(link_of(store)) == path.name
    assert path.parent == link_of(store).parent
    with duckdb.connect(str(link_of(store)), read_only=True) as connection:
        assert connection.execute("select count(*), count(distinct cluster_id) from demo").fetchall() == [(75, 71)]
        assert connection.execute("select count(*) from demo.occurrences").fetchall() == [(76,)]
        assert connection.execute("select count(*) from losses").fetchall() == [(2,)]
    with duckdb.connect() as other:  # attached under another name, views still find their own tables
        other.execute(f"attach '{str(link_of(store)).replace(chr(39), chr(39) * 2)}' as tilth (read_only)")
        assert other.execute("select count(*) from tilth.demo where is_keeper").fetchall() == [(71,)]


def test_same_names_are_not_written_again(store: Store, demo, docs, corpus_saver):
    first = publish(store)
    stamp = first.stat().st_mtime_ns
    assert publish(store) == first
    assert first.stat().st_mtime_ns == stamp
    corpus_saver("other", docs[:20])
    second = publish(store)
    assert second != first
    assert first.exists()
    assert fresh(store)["corpora"] == ["demo", "other"]
    store.save_named("corpus", "other", demo.parts, {})
    assert publish(store) not in (first, second)


def test_current_says_whether_a_publish_is_due(store: Store, demo, docs, corpus_saver):
    assert not is_current(store)
    first = publish(store)
    assert is_current(store)
    with duckdb.connect(str(first)) as writer:
        writer.execute("create table mine as select 1 x")
    assert not is_current(store)
    publish(store)
    assert is_current(store)
    corpus_saver("other", docs[:20])
    assert not is_current(store)


def test_long_lived_reader_keeps_its_snapshot(store: Store, demo, docs, corpus_saver, program):
    publish(store)
    reader = program()
    assert reader.open(read_only=True) == "None"
    corpus_saver("other", docs[:20])
    publish(store)
    assert reader.ask("c.execute('select name from corpora order by 1')") == "[('demo',)]"
    assert reader.ask("c.execute('select count(*) from demo')") == "[(75,)]"
    reader.ask("c.close()")
    reader.open(read_only=True)
    assert reader.ask("c.execute('select name from corpora order by 1')") == "[('demo',), ('other',)]"


def test_writer_neither_blocks_nor_is_blocked(store: Store, demo, docs, corpus_saver, program):
    publish(store)
    writer = program()
    assert writer.open(read_only=False) == "None"
    writer.ask("c.execute('create table mine as select 1 x')")
    corpus_saver("other", docs[:20])
    publish(store)
    assert fresh(store)["corpora"] == ["demo", "other"]
    assert "mine" not in fresh(store)["names"]
    writer.ask("c.execute('insert into mine values (2)')")
    assert writer.ask("c.execute('select count(*) from mine')") == "[(2,)]"
    assert writer.ask("c.close()") == "None"
    assert fresh(store)["corpora"] == ["demo", "other"]
    assert "mine" not in fresh(store)["names"]


def test_writer_on_the_newest_is_left_behind_with_its_copy(store: Store, demo, program):
    first = publish(store)
    writer = program()
    writer.open(read_only=False)
    with pytest.raises(duckdb.IOException, match="lock"):
        fresh(store)  # DuckDB's own rule between programs; the next publish lifts it
    second = publish(store)
    assert second != first
    assert fresh(store)["corpora"] == ["demo"]
    assert publish(store) == second
    writer.ask("c.execute('drop view demo')")
    writer.ask("c.close()")
    assert "demo" in fresh(store)["names"]
    assert publish(store) == second


def test_changed_file_is_replaced(store: Store, demo, program):
    first = publish(store)
    writer = program()
    writer.open(read_only=False)
    writer.ask("c.execute('drop view demo')")
    writer.ask("c.close()")
    assert "demo" not in [row for row in fresh_views(store) if row == "demo"]
    second = publish(store)
    assert second != first
    assert "demo" in fresh_views(store)


def fresh_views(store: Store) -> list[str]:
    with duckdb.connect(str(link_of(store)), read_only=True) as connection:
        return [
            name
            for (name,) in connection.execute(
                "select view_name from duckdb_views() where not internal and schema_name = 'main'"
            ).fetchall()
        ]


@pytest.mark.parametrize("other_names", [False, True])
def test_killed_writer_poisons_nothing(store: Store, demo, docs, corpus_saver, program, other_names):
    first = publish(store)
    writer = program()
    writer.open(read_only=False)
    writer.ask("c.execute('create table mine as select 1 x')")
    writer.ask("c.execute('drop view demo')")
    writer.kill()
    # DuckDB resolves the link, so that the log lies beside the real file and not beside the link.
    assert f"{first.name}.wal" in files(store)
    assert "catalog.duckdb.wal" not in files(store)
    if other_names:
        corpus_saver("other", docs[:20])
    second = publish(store)
    assert second != first
    assert "demo" in fresh(store)["names"]
    assert "mine" not in fresh(store)["names"]
    with duckdb.connect(str(link_of(store))) as connection:  # read-write replays a log, if it finds one
        assert connection.execute("select count(*) from demo").fetchall() == [(75,)]
    store.save_named("corpus", "demo", demo.parts, {"recipe": "again"})
    publish(store)
    assert fresh(store)["corpora"] == (["demo", "other"] if other_names else ["demo"])


def test_two_publishers_at_once(store: Store, demo, docs, corpus_saver):
    command = [sys.executable, "-c", PUBLISHER, str(store.root)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    names = {process.communicate()[0].strip() for process in processes}
    assert len(names) == 1
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert [name for name in files(store) if name.startswith("catalog-")] == sorted(names)
    assert fresh(store)["corpora"] == ["demo"]


def test_readers_during_many_publishes_never_fail(store: Store, demo, docs):
    publish(store)
    stop, seen, failures = threading.Event(), [], []

    def read() -> None:
        done = subprocess.run([sys.executable, "-c", READER, str(link_of(store))], capture_output=True, text=True)
        seen.extend(done.stdout.splitlines())
        failures.append(done.stderr)
        stop.set()

    thread = threading.Thread(target=read)
    thread.start()
    n_published = 0
    while not stop.is_set() and n_published < 200:
        store.save_named("corpus", "demo", demo.parts, {"recipe": str(n_published)})
        publish(store)
        n_published += 1
    thread.join()
    assert failures == [""]
    assert len(seen) == 60
    assert len(set(seen)) > 3
    assert all(line.endswith(", 75)]") for line in seen)


def test_old_files_go_unless_somebody_has_them_open(store: Store, demo, program):
    first = publish(store)
    reader = program()
    reader.open(read_only=True)
    published = []
    for number in range(8):
        store.save_named("corpus", "demo", demo.parts, {"recipe": str(number)})
        published.append(publish(store))
    assert first.exists()
    assert [path.exists() for path in published] == [False, False, False] + [True] * 5
    assert reader.ask("c.execute('select count(*) from demo')") == "[(75,)]"
    reader.ask("c.close()")
    store.save_named("corpus", "demo", demo.parts, {"recipe": "last"})
    publish(store)
    assert not first.exists()
    assert len([name for name in files(store) if name.startswith("catalog-")]) == 5


def test_moved_store_is_published_with_its_new_paths(store: Store, demo, tmp_path):
    publish(store)
    store.root.rename(tmp_path / "moved")
    moved = Store(tmp_path / "moved")
    publish(moved)
    with duckdb.connect(str(link_of(moved)), read_only=True) as connection:
        assert connection.execute("select count(*) from demo").fetchall() == [(75,)]


def test_what_a_killed_publisher_left_is_swept(store: Store, demo):
    publish(store)
    (store.root / "catalog" / ".catalog-0.duckdb.abc").write_bytes(b"half")
    (store.root / "catalog" / "published.json").write_text("{ half")
    publish(store)
    assert not [name for name in files(store) if name.startswith(".")]
    assert fresh(store)["corpora"] == ["demo"]


def test_an_idle_publish_changes_no_file(store: Store, demo):
    publish(store)
    before = {path.name: path.lstat().st_mtime_ns for path in (store.root / "catalog").iterdir()}
    publish(store)
    assert {path.name: path.lstat().st_mtime_ns for path in (store.root / "catalog").iterdir()} == before


def test_missing_shard_keeps_the_old_catalog(store: Store, demo, docs, corpus_saver):
    publish(store)
    other = corpus_saver("other", docs)
    damaged = store.artifact(other.of("signals.words")[0]).path / "signals.parquet"
    damaged.write_bytes(b"not parquet")
    with pytest.raises(StoreError, match=r"missing or damaged[\s\S]*signals\.parquet"):
        publish(store)
    assert not [name for name in files(store) if name.startswith(".")]


def test_full_disk_is_a_store_error(store: Store, demo, monkeypatch):
    def project(*_: object) -> None:
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")

    monkeypatch.setattr(publish_module, "project", project)
    with pytest.raises(StoreError, match="disk is full"):
        publish(store)
    assert [name for name in files(store) if "duckdb" in name] == []
