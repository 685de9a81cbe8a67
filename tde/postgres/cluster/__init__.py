"""A data directory and what is encrypted in it."""
