"""The workloads of ``tde-bench oltp``."""
