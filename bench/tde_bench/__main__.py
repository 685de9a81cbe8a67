"""Lets ``python -m tde_bench`` do what ``tde-bench`` does."""

from tde_bench.cli import main

main()
