"""A website as a source: a polite crawler that leaves a WARC file, and Python's documentation server to crawl offline."""
