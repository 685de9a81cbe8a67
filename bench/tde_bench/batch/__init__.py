"""``tde-bench batch``: sequential and rewrite work, phase by phase, with and without encryption."""
