"""What is computed: a file an operation, each an operator of torch's dispatcher."""
