"""Primaries and standbys: how one is made of another, and what they know of each other."""
