"""Generators: class-conditional models of tokens, their paths, samplers and losses."""
