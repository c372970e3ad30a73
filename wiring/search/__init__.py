"""What is run and kept: searchers, experiments, the search loop, records, and sweeps of many runs."""
