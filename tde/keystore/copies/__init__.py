"""Copies of a keystore: a backup, its way back, and keys that another copy lacks.

A key record is never replaced and never removed, here as elsewhere. keystore.json is written last,
so a copy that was interrupted is no keystore yet, and the command can be repeated.
"""
