"""A model's files: the tensors that they store, and the blocks that these make up."""
