"""One file per table: `python -m benchmarks.NAME --json FILE`."""
