"""Tables of README.md and docs/, made of what `experiments/results/` keeps."""
