"""Bottlenecks: vector, soft, scalar, Gaussian and cascaded quantizers."""
