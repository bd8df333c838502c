"""The benchmarks: Perdure beside its peers and beside what Postgres and Redis can do, on one machine in one run.

`make bench` runs all of it, `make bench-quick` the headline ratios. One measurement a file; docs/performance.md has the results.
"""
