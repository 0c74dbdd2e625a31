"""The tests, by floor; `tests/benchmarks` measures and is run apart."""
