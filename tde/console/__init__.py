"""The manners of every command line here: consoles, reports of errors, help, shared options.

Used by ``tde`` and by ``tde-bench``. It knows nothing of keystores and of PostgreSQL.
"""
