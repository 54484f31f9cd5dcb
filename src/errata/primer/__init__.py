"""The shipped model that knows its own world: generator, probes, weights and card."""
