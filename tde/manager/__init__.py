"""``tde manager``: a web page from which a DBA does what the commands do.

It has no logic of its own: what is shown comes from the functions that the commands call, and what
changes something is a command that runs as a job (:mod:`tde.manager.jobs`), so that it survives the
page, the browser and the manager. Who may ask at all is decided in :mod:`tde.manager.security`.
"""
