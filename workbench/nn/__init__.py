"""Neural network parts that several tokenizers and generators share."""
