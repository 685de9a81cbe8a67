"""Attacks and accidents: each that was done to an earlier release, and the tests that repeat it."""
