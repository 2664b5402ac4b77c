"""edgeae against what people would use instead; `python -m benchmarks` runs the comparison, see README.md."""
