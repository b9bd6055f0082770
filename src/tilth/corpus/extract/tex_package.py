"""Unpacks one paper as arXiv archives it, in memory: a tar, a single file, either compressed or not."""

from __future__ import annotations

import io
import posixpath
from typing import BinaryIO, NamedTuple

from tilth.corpus.extract.tex_project import READ_SUFFIXES, is_tex_name
from tilth.corpus.extract.tex_tokens import TexError
from tilth.corpus.formats.content import DamagedError, decompressed, peek
from tilth.corpus.formats.tar import BLOCK, Member, TarDamage, is_tar, is_unsafe_name, read_tar

MAX_FILE_BYTES = 16 << 20  # of a LaTeX file
MAX_TEXT_BYTES = 48 << 20  # of all of a paper's LaTeX files
MAX_CONTENT_BYTES = 1 << 30  # of everything in a package, figures too
MAX_MEMBERS = 20_000
SINGLE_FILE = "main.tex"
NOT_LATEX = ((b"%PDF-", "pdf_only"), (b"%!PS", "postscript_only"), (b"\x04%!PS", "postscript_only"), (b"PK\x03\x04", "not_tex"))


class Package(NamedTuple):
    """The files of a paper that LaTeX reads, by their paths, and arXiv's directives (00README)."""

    files: dict[str, bytes]
    directives: bytes | None


def read_package(data: bytes) -> Package:
    """The LaTeX files of an archived paper.

    Raises TexError: pdf_only, postscript_only, not_tex, empty, truncated, damaged, bomb, too_large, too_many_files,
    path_traversal (no file is ever written, but such a package is not what arXiv makes).
    """
    try:
        head, stream = peek(decompressed(io.BytesIO(data), MAX_CONTENT_BYTES), BLOCK)
        package = _from_tar(stream) if is_tar(head) else _from_file(head, stream)
        while stream.read(1 << 20):
            pass  # to the end, where the checksum is
        return package
    except DamagedError as error:
        raise TexError(error.reason, str(error)) from None


def _from_file(head: bytes, stream: BinaryIO) -> Package:
    if not head:
        raise TexError("empty", "no bytes")
    for magic, reason in NOT_LATEX:
        if head.startswith(magic):
            raise TexError(reason, f"begins as {head[:8]!r}")
    data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise TexError("too_large", f"the file has more than {MAX_FILE_BYTES} bytes")
    if b"\\" not in data and b"\0" not in data:
        raise TexError("not_tex", f"no LaTeX command in {len(data)} bytes")
    return Package({SINGLE_FILE: data}, None)


def _from_tar(stream: BinaryIO) -> Package:
    files: dict[str, bytes] = {}
    directives = None
    n_bytes = n_members = n_pdf = 0
    for member in read_tar(stream):
        if isinstance(member, TarDamage):
            raise TexError("truncated" if member.reason == "truncated" else "damaged", f"tar at {member.offset}: {member.detail}")
        n_members += 1
        if n_members > MAX_MEMBERS:
            raise TexError("too_many_files", f"more than {MAX_MEMBERS} files")
        if is_unsafe_name(member.name):
            raise TexError("path_traversal", f"a file named {member.name[:200]!r}")
        name = posixpath.normpath(member.name)
        n_pdf += name.lower().endswith((".pdf", ".ps", ".eps"))
        if member.kind != "file":
            continue
        if posixpath.basename(name).upper().startswith("00README"):
            directives = _content(member)
        elif name.lower().endswith(READ_SUFFIXES) or is_tex_name(name):
            files[name] = _content(member)
            n_bytes += len(files[name])
            if n_bytes > MAX_TEXT_BYTES:
                raise TexError("too_large", f"more than {MAX_TEXT_BYTES} bytes of LaTeX")
    if not any(is_tex_name(name) for name in files):
        raise TexError("pdf_only" if n_pdf == n_members else "not_tex", f"no LaTeX among {n_members} files")
    return Package(files, directives)


def _content(member: Member) -> bytes:
    if member.size_bytes > MAX_FILE_BYTES:
        raise TexError("too_large", f"{member.name}: {member.size_bytes} bytes, at most {MAX_FILE_BYTES}")
    return member.read()
