"""Tests of tde ha."""
