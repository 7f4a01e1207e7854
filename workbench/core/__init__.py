"""Shared foundations: types, errors, coercion of settings, and progress reporting."""
