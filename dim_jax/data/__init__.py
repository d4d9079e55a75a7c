"""Where examples come from, which of them form a step, how they vary."""
