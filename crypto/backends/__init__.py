"""How words are hidden on their way to the sum: a package a backend, each with a `spec` of what is asked about it."""
