"""Estimates mutual information from pairs, and says how far to trust it."""
