"""Trains any `Objective`: steps, the loop, devices, checkpoints, metrics."""
