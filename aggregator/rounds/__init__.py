"""One secure sum: who is there, what they said, what they uploaded, and the sum."""
