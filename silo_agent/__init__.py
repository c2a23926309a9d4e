"""One silo's agent: its text stays here, only masked integers leave."""
