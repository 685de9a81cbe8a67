"""``tde-bench compare``: other ways to encrypt PostgreSQL, side by side in one run."""
