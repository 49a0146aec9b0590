"""Experiment trackers, each imported only when a run names it."""
