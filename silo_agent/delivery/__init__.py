"""How results come to a silo."""
