"""From what a coordinator asked for to the finished run."""
