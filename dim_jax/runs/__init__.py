"""What a user runs: train a config, measure the run, sweep, train by layers."""
