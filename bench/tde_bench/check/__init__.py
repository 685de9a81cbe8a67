"""``tde-bench check``: has encryption become more expensive than it was?"""
