"""The verbs of ``tde pg``."""
