"""``tde-bench oltp``: a transactional workload on every configuration, in interleaved slices."""
