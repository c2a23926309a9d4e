"""Which weights are kept, and what kept weights become."""
