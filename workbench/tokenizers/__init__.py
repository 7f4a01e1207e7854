"""Tokenizers: from images to tokens and back. Each file contains one system and reads like its paper."""
