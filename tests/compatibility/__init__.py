"""``make compatibility``: the table of docs/compatibility.md, from runs on releases of Debian."""
