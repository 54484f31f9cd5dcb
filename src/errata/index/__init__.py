"""A memory of keys: clusters that grow, conflict and forget, and the search for the one a key falls into.

It knows tensors and numbers only; what a key opens is the business of whoever keeps it.
"""
