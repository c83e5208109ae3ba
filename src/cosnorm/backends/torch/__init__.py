"""Torch's operators alone: right at every scale, on every device, without a look at the data."""
