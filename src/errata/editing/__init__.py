"""A model and its book together: write, gate, check, compare, move, locate."""
