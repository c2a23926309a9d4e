"""What people type at `aggregator`, a module a group of commands."""
