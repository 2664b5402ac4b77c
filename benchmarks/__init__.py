"""edgeae against what people would use instead; each module runs as `python -m benchmarks.NAME`."""
