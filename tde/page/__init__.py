"""Encryption of PostgreSQL's 8 KiB pages: identities, the codec and a slow reference.

``tde.PageCipher`` is the public face.  :mod:`tde.page.reference` says the same as the C
core in plain Python, for tests and for readers of docs/format.md.
"""
