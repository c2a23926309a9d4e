"""What a run comes to: the sparse model as the opened sums make it, written by one role and checked by the other."""
