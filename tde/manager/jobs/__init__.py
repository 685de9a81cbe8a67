"""Long work as a process of its own: it survives the page, the browser and the manager.

A job is a directory (:mod:`.store`), and a process that runs one command of tde after the other
(:mod:`tde.cli.job_runner`). What is true of a job is read from there, whoever has started it.
"""
