"""Tokenizers, one system per file. Each file reads like its paper."""
