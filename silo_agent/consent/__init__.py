"""What may leave this silo, who said so, and what did leave."""
