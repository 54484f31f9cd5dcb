"""Benchmark runs: edits and checkpoints in a directory that survives a kill."""
