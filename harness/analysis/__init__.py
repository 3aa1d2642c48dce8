"""Afterwards: from records to statistics, energy, attribution and verdicts."""
