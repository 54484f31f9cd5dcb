"""From the files benchmarks are published in to cases: one small function a form."""
