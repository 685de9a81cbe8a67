"""Tablespaces of a running cluster."""
