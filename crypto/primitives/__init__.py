"""The cryptographic building blocks, each a thin wrapper over a library or one published construction."""
