"""Measuring and its arithmetic, of anything: CPU, cipher, machine, statistics."""
