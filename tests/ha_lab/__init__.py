"""A lab of two nodes on one machine: Pacemaker or Patroni, failovers under load, counted rows."""
