"""Losses: pure functions of arrays, which know nothing of networks or runs."""
