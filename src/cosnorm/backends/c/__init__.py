"""Passes compiled from C around torch's products, on a CPU."""
