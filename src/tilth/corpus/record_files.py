"""What the sources of records (JSON lines, CSV, Parquet) have in common: a layout says which field is the text, which the id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tilth.corpus.file_source import FileSource
from tilth.corpus.layouts import RecordReader, choose_layout
from tilth.corpus.records import Shard


@dataclass(frozen=True, kw_only=True)
class RecordFiles(FileSource):
    """`layout` is auto, plain, datatrove, dolma, redpajama-v1 or redpajama-v2.

    `text`, `id`, `url` and `language` name fields where yours differ. All other fields go to `meta`.
    """

    layout: str = "auto"
    text: str | None = None
    id: str | None = None
    url: str | None = None
    language: str | None = None

    kind: ClassVar[str]  # what the ids and the occurrences say

    def params(self) -> dict[str, Any]:
        """The layout and the names of fields. Raises SourceError for an unknown layout."""
        choose_layout(self.layout, self._fields, self.where)
        return {"layout": self.layout, "fields": self._fields}

    def reader(self, shard: Shard) -> RecordReader:
        """What makes the records of a shard documents."""
        return RecordReader(self.name, self.kind, choose_layout(self.layout, self._fields, self.where), shard.params["licence"])

    @property
    def _fields(self) -> dict[str, str | None]:
        return {"text": self.text, "id": self.id, "url": self.url, "language": self.language}
