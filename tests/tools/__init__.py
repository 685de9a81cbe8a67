"""Backup tools and cluster managers of others, on encrypted clusters.

Most need a minute and a tool that is not PostgreSQL's: they are skipped where it is not in PATH.
"""
