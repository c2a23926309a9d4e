"""What `silo-agent preflight` checks: everything that would stop this silo in a round, a subject a file."""
