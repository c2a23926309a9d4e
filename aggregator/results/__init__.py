"""What opened sums become: a sparse model, and a report of how it came about."""
