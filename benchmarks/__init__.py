"""What sessions cost, measured. Run with `make bench`; see `benchmarks/README.md`."""
