"""The twins of the passes in C in torch's operators: on a CPU, one look at the norms."""
