"""What is run and kept: searchers, experiments, the search loop, records, and sweeps of many runs."""

from wiring.search.experiments import PRESETS, Experiment, changed, preset
from wiring.search.loop import Search, generator, run
from wiring.search.records import Record, RecordError, load, load_reference
from wiring.search.searchers import DARTS, DSNAS, SEARCHERS, SNAS, LogSumDSNAS, Searcher, dropped
from wiring.search.sweeps import run_seeds, sweep

__all__ = [
    "DARTS",
    "DSNAS",
    "PRESETS",
    "SEARCHERS",
    "SNAS",
    "Experiment",
    "LogSumDSNAS",
    "Record",
    "RecordError",
    "Search",
    "Searcher",
    "changed",
    "dropped",
    "generator",
    "load",
    "load_reference",
    "preset",
    "run",
    "run_seeds",
    "sweep",
]
