"""How fast `gapcell.stream` is, and what it does when it is killed and starved: `python -m benchmarks.stream`."""
