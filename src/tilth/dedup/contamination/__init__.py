"""Parts of benchmarks in documents."""
