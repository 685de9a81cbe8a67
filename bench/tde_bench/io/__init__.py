"""``tde-bench io``: a server's recorded calls, made again with and without the interposer."""
