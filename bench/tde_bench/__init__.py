"""Benchmarks that show what encrypting PostgreSQL's storage costs."""
