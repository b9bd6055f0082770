"""datatrove's four stages over JSONL files with its own defaults (5 words, 14 buckets of 8), one process, a task for each file.

python datatrove_minhash.py OUT FILE...        the files must be all that their folder holds
"""

from __future__ import annotations

import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from answer import write_clusters
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter


def main(out: str, files: list[str]) -> None:
    work, config, folder = Path(f"{out}.work"), MinhashConfig(), str(Path(files[0]).parent)
    signatures, buckets, removals, kept = (str(work / name) for name in ("signatures", "buckets", "removals", "kept"))
    stages = [
        ([JsonlReader(folder), MinhashDedupSignature(signatures, config)], len(files)),
        ([MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets),
        ([MinhashDedupCluster(buckets, removals, config=config, save_cluster_id=True)], 1),
        ([JsonlReader(folder), MinhashDedupFilter(removals), JsonlWriter(kept, compression=None)], len(files)),
    ]
    for number, (pipeline, tasks) in enumerate(stages):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(work / f"log{number}")).run()
    write_clusters(out, members(Path(removals)))
    shutil.rmtree(work)


def members(folder: Path) -> Iterator[tuple[tuple[int, int], int]]:
    """What stage three says of each document: its number in its file and its cluster."""
    for path in sorted(folder.glob("*.clusters")):
        for line_number, cluster in struct.iter_unpack("<2I", path.read_bytes()):
            yield (int(path.stem), line_number), cluster


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
