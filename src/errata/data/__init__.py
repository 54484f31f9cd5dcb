"""Files of facts and benchmarks, read into `Fact` and `Case`; no torch."""
