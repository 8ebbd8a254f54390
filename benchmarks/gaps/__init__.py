"""Which way of treating a gap forecasts best: `python -m benchmarks.gaps`."""
