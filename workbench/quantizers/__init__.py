"""Bottlenecks between an encoder and a decoder: vector, soft, scalar, Gaussian and cascaded quantizers."""
