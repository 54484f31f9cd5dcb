"""Benchmarks and statistics beyond one process: sweeps here, by shards, or on Ray."""
