"""The pure core: values in, values out. No clock, disk, socket, log or global randomness."""
