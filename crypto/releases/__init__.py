"""What can be summed: one release kind a file, as everybody knows it from the plan alone."""
