"""What gapcell and other implementations of a ConvLSTM cost on this machine: `python -m benchmarks`.

`catalogue` says what is measured and `shapes` on what; `systems/` runs it, one module a process of its own (`worker`),
driven in turn by `interleaved`; `memory` and `machine` measure the rest. `document` writes docs/benchmarks.md, its
charts and the README's figures from the results.
"""
