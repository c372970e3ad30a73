"""What is run and kept: searchers, experiments, the search loop, records, and sweeps of many runs."""

from wiring.search.discrete import alone, closing, derive
from wiring.search.experiments import PRESETS, Experiment, changed, preset
from wiring.search.loop import Search, generator, run
from wiring.search.records import Record, RecordError, load, load_reference
from wiring.search.searchers import DARTS, DSNAS, SEARCHERS, SNAS, LogSumDSNAS, Searcher, dropped, lead
from wiring.search.sweeps import run_each, run_seeds, sweep

__all__ = ["PRESETS", "Experiment", "changed", "preset"]
__all__ += ["Search", "generator", "run"]
__all__ += ["Record", "RecordError", "load", "load_reference"]
__all__ += ["DARTS", "DSNAS", "SEARCHERS", "SNAS", "LogSumDSNAS", "Searcher", "dropped", "lead"]
__all__ += ["run_each", "run_seeds", "sweep"]
__all__ += ["alone", "closing", "derive"]
