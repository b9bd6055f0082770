"""RedPajama-V2's signal of blocked domains: the categories under which a list such as UT1 has the document's domain.

Definition: arXiv:2411.12372 and the code published with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pyarrow as pa

from tilth.quality_signals.family import ANY_SIZE
from tilth.quality_signals.fused.domains import read_domains
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import BatchScores, Resource, batch_signal

_NETWORK_LOCATION = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")  # RFC 3986, appendix B
NO_DOMAIN, NOT_LISTED = "no domain", "domain is not listed"


@batch_signal(
    "blocked_domains",
    version=1,
    columns={"rps_doc_ut1_blacklist": pa.int64()},
    needs=("url",),
    resources={"blocked_domains": Resource(read_domains)},
    max_bytes=ANY_SIZE,
)
def blocked_domains(batch: TextBatch, blocked_domains: Mapping[str, int]) -> BatchScores:
    """The id of the domain's combination of categories (`fused.domains.category_ids`).

    The domain is the URL's network location as written: `www.` and parent domains are not tried, as published.
    Undefined where there is no domain, or the list does not have it.
    """
    domains = [_domain(url) for url in batch.fields["url"].to_pylist()]
    found = pa.array([blocked_domains.get(domain) for domain in domains], pa.int64())
    none = found.is_null().to_numpy(zero_copy_only=False)
    empty = pa.array([not domain for domain in domains], pa.bool_()).to_numpy(zero_copy_only=False)
    return BatchScores({"rps_doc_ut1_blacklist": found}, {NO_DOMAIN: none & empty, NOT_LISTED: none & ~empty})


def _domain(url: str | None) -> str:
    found = _NETWORK_LOCATION.match(url or "")
    return found[1] if found else ""
