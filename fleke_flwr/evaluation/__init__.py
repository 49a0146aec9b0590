"""Measure what an edit did."""
