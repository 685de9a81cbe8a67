"""Base backups that are sealed: an altered one is found out, and the keys it needs are known."""
