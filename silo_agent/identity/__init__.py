"""Who this silo is, and whom it agrees to be summed with."""
