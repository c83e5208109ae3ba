"""What computes: a folder a backend, the same file and function names in each; `choose` decides."""
