"""What second-order pruners and quantising make of a Gram matrix."""
