"""How a silo takes part in rounds, and what it checks of them."""
