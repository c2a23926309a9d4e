"""Who was invited, who is enrolled, who is heard."""
