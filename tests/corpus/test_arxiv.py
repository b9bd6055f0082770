"""arXiv packages: bulk archives, single packages, folders; traversal, bombs and damage become rejects."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.corpus.batches import batches
from tilth.corpus.extract.tex_package import read_package
from tilth.corpus.extract.tex_tokens import TexError
from tilth.corpus.formats.tar import Member, TarDamage, read_tar
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.arxiv import ArxivSource, arxiv_identifier
from tilth.errors import SourceError

PAPER = "\\documentclass{article}\n\\begin{document}\\title{%s}\n\\section{Intro}\nText of %s.\n\\end{document}\n"


def tar(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target.getvalue()


def package(title: str) -> bytes:
    return gzip.compress(tar({"fig.pdf": b"%PDF", "ms.tex": (PAPER % (title, title)).encode()}), mtime=0)


def rows(path: Path | str, **options: object) -> list[Document | Reject]:
    source = ArxivSource("arxiv", str(path), **options)  # type: ignore[arg-type]
    return [row for shard in source.plan() for row in source.read(shard)]


@pytest.fixture
def bulk(tmp_path: Path) -> Path:
    members = {
        "1501/1501.00001.gz": package("One"),
        "1501/1501.00002.gz": gzip.compress((PAPER % ("Two", "Two")).encode(), mtime=0),
        "1501/1501.00003.pdf": b"%PDF-1.4",
        "1501/hep-th9901004.gz": package("Four"),
        "1501/1501.00005.gz": package("Five")[:150],
    }
    path = tmp_path / "arXiv_src_1501_001.tar"
    path.write_bytes(tar(members))
    return path


def test_a_bulk_archive_is_a_row_for_each_package(bulk: Path) -> None:
    found = rows(bulk, licence="CC-BY-4.0")
    documents = [row for row in found if isinstance(row, Document)]
    assert [row.url for row in documents] == [
        "https://arxiv.org/abs/1501.00001", "https://arxiv.org/abs/1501.00002", "https://arxiv.org/abs/hep-th/9901004",
    ]  # fmt: skip
    assert documents[0].text == "\\title{One}\n\n\\section{Intro}\nText of One.\n"
    assert documents[0].raw_swhid == content_swhid(package("One"))
    assert [claim.spdx for claim in documents[0].licences] == ["CC-BY-4.0"]
    assert [(row.location.rpartition("/")[2], row.reason) for row in found if isinstance(row, Reject)] == [
        ("1501.00003.pdf", "pdf_only"), ("1501.00005.gz", "truncated"),
    ]  # fmt: skip
    offset = documents[0].occurrences[0].offset
    assert offset is not None
    assert bulk.read_bytes()[offset:].startswith(b"1501/1501.00001.gz")


def test_the_same_paper_comes_from_tar_gz_and_folder(tmp_path: Path) -> None:
    (tmp_path / "1501.00001v2.tar.gz").write_bytes(package("One"))
    (tmp_path / "plain/1501.00001v2").mkdir(parents=True)
    (tmp_path / "plain/1501.00001v2/ms.tex").write_text(PAPER % ("One", "One"))
    (one,), (two,) = rows(tmp_path / "1501.00001v2.tar.gz"), rows(tmp_path / "plain")
    assert isinstance(one, Document)
    assert isinstance(two, Document)
    assert one.text == two.text
    assert one.url == two.url == "https://arxiv.org/abs/1501.00001"
    assert one.meta["arxiv_version"] == "v2"
    assert one.doc_id != two.doc_id


def test_ids_and_text_are_the_same_twice_and_fit_the_contract(bulk: Path) -> None:
    source = ArxivSource("arxiv", str(bulk))
    (shard,) = source.plan()
    once, twice = list(source.read(shard)), list(source.read(shard))
    assert once == twice
    (batch,) = batches(once, shard)
    assert batch.documents.num_rows + batch.rejects.num_rows == 5


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_forms_and_long_names(form: int) -> None:
    files = {"a" * 90 + "/" + "b" * 60 + ".tex": b"x" * 700, "kurz.tex": b"", "ü.tex": b"y" * 512}
    found = [(member.name, member.read()) for member in read_tar(io.BytesIO(tar(files, form))) if isinstance(member, Member)]
    assert found == list(files.items())


def test_a_lost_members_name_goes_to_no_other_and_sizes_without_end_are_none() -> None:
    data = bytearray(tar({"a" * 120 + ".tex": b"x" * 700, "kurz.tex": b"y"}, tarfile.GNU_FORMAT))
    data[2 * 512 + 150] ^= 0xFF  # the header behind the long name
    assert [member.name for member in read_tar(io.BytesIO(data)) if isinstance(member, Member)] == ["kurz.tex"]
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("ms.tex")
        member.size, member.pax_headers = 5, {"size": "9" * 5000}
        archive.addfile(member, io.BytesIO(b"words"))
    found = [(member.name, member.read()) for member in read_tar(io.BytesIO(target.getvalue())) if isinstance(member, Member)]
    assert found == [("ms.tex", b"words")]


def test_time_to_read_on_grows_with_the_damages() -> None:
    data = bytearray(tar({f"{i}.tex": b"x" for i in range(8000)}, tarfile.USTAR_FORMAT))
    for i in range(0, 4000, 2):
        data[i * 1024 + 150] ^= 0xFF
    for i in range(4000, 8000, 2):
        data[i * 1024 : i * 1024 + 512] = bytes(512)
    started = time.process_time()
    assert [type(found) is Member for found in read_tar(io.BytesIO(data))].count(True) == 4000
    assert time.process_time() - started < 3  # ten times what it takes


@pytest.mark.parametrize("name", ["../../x.tex", "/etc/x.tex", "a/../../x.tex", "C:\\x.tex", "..\\x.tex"])
def test_path_traversal_is_refused(tmp_path: Path, name: str) -> None:
    data = tar({"ms.tex": (PAPER % ("A", "A")).encode(), name: b"x"})
    with pytest.raises(TexError) as caught:
        read_package(data)
    assert caught.value.reason == "path_traversal"
    (tmp_path / "b.tar").write_bytes(tar({"1501.00001.gz": package("One"), f"../{name}.gz": package("Two")}))
    assert [getattr(row, "reason", "document") for row in rows(tmp_path / "b.tar")] == ["document", "path_traversal"]
    assert not list(tmp_path.parent.glob("x.tex"))


def test_links_are_never_followed() -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        link = tarfile.TarInfo("ms.tex")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(TexError) as caught:
        read_package(target.getvalue())
    assert caught.value.reason == "not_tex"


def test_a_bomb_is_refused_before_it_grows() -> None:
    header = tarfile.TarInfo("ms.tex")
    header.size = 1 << 40
    head = header.tobuf(tarfile.GNU_FORMAT)
    data = gzip.compress(head + b"\0" * (96 << 20), 9)
    with pytest.raises(TexError) as caught:
        read_package(data)
    assert caught.value.reason == "too_large"
    other = tarfile.TarInfo("fig.eps")
    other.size = 1 << 40
    with pytest.raises(TexError) as caught:
        read_package(gzip.compress(other.tobuf(tarfile.GNU_FORMAT) + b"\0" * (130 << 20), 9))
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"%PDF-1.5 ...", "pdf_only"),
        (gzip.compress(b"%!PS-Adobe", mtime=0), "postscript_only"),
        (tar({"a.pdf": b"%PDF"}), "pdf_only"),
        (tar({"a.gif": b"GIF"}), "not_tex"),
        (package("A")[:-40], "truncated"),
    ],
)
def test_what_is_no_paper_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(TexError) as caught:
        read_package(data)
    assert caught.value.reason == reason


def test_a_damaged_header_costs_its_member_only(tmp_path: Path) -> None:
    data = bytearray(tar({f"1501/1501.0000{i}.gz": package(str(i)) for i in range(1, 5)}, tarfile.USTAR_FORMAT))
    second = data.index(b"1501/1501.00002.gz")
    data[second + 150] ^= 0xFF
    (tmp_path / "b.tar").write_bytes(bytes(data))
    found = rows(tmp_path / "b.tar")
    assert [row.meta["title"] for row in found if isinstance(row, Document)] == ["1", "3", "4"]
    assert [(row.reason, row.location) for row in found if isinstance(row, Reject)] == [("bad_header", f"b.tar@{second}")]


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mutation_ends_and_keeps_what_it_did_not_touch(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(tar({f"1501/1501.0000{i}.gz": package(str(i)) for i in range(1, 4)}, tarfile.USTAR_FORMAT))
    n_bytes = len(whole)
    ends = [whole.index(b"1501/1501.0000%d" % i) + 512 + len(package(str(i))) for i in range(1, 4)]
    at = data.draw(st.integers(0, n_bytes - 1))
    if data.draw(st.booleans()):
        whole[at] ^= data.draw(st.integers(1, 255))
    else:
        del whole[at:]
    (tmp_path / "b.tar").write_bytes(bytes(whole))
    found = rows(tmp_path / "b.tar")
    titles = [row.meta["title"] for row in found if isinstance(row, Document)]
    if len(whole) == n_bytes:
        assert len(titles) >= 2  # a changed byte costs one package at most
    else:
        assert len(titles) == sum(end <= at for end in ends)
    assert all(row.location.startswith("b.tar") for row in found if isinstance(row, Reject))


@given(st.binary(max_size=3000))
@settings(max_examples=100, deadline=None)
def test_any_bytes_as_a_tar_end(data: bytes) -> None:
    for member in read_tar(io.BytesIO(data)):
        assert isinstance(member, Member | TarDamage)


def test_a_wrong_rule_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="before_sections"):
        ArxivSource("a", str(tmp_path), before_sections="dropp").plan()
    with pytest.raises(SourceError, match="no file"):
        ArxivSource("a", str(tmp_path)).plan()


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("1501/1501.00001.gz", ("1501.00001", "")),
        ("0704.0001v3.tar.gz", ("0704.0001", "v3")),
        ("9901/hep-th9901001.gz", ("hep-th/9901001", "")),
        ("math.AG0601001v1/main.tex", ("math.AG/0601001", "v1")),
        ("paper.tar.gz", ("", "")),
    ],
)
def test_identifiers(location: str, found: tuple[str, str]) -> None:
    assert arxiv_identifier(location) == found


@pytest.mark.data
def test_real_sources_make_a_row_for_each_paper(test_data: Path) -> None:
    found = rows(test_data / "latexml_tests/t")
    assert Counter(getattr(row, "reason", "document") for row in found) == {"document": 299, "fragment": 18}
    n_files = len(list((test_data / "latexml_tests/t").rglob("*.tex")))
    read = {name for row in found if isinstance(row, Document) for name in row.meta["files"].split("\n")}
    assert n_files == len(
        {name for name in read if name.endswith(".tex")} | {row.location for row in found if isinstance(row, Reject)}
    )
    (cleaned,) = [row for row in rows(test_data / "arxiv_cleaner/test_data/tex") if isinstance(row, Document)]
    assert "should be gone" not in cleaned.text
