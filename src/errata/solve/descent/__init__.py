"""Gradient descent on what a method trains: a matrix, neurons, or blocks beside a matrix."""
