"""What ScanCode says of files: paths on standard input, a JSON line each on standard output. Runs where ScanCode is installed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from licensedcode.cache import get_index
from licensedcode.detection import detect_licenses

SECONDS = 120

if __name__ == "__main__":
    get_index()
    for line in sys.stdin:
        text = Path(line.rstrip("\n")).read_bytes().decode("utf-8", "replace")
        started = time.process_time()
        # the deadline is a time of day
        found = [one.license_expression_spdx for one in detect_licenses(query_string=text, deadline=time.time() + SECONDS)]
        print(json.dumps({"seconds": time.process_time() - started, "spdx": [spdx for spdx in found if spdx]}), flush=True)
