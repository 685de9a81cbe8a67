"""A workload like TPC-C: schema, transactions, and the processes that run them."""
