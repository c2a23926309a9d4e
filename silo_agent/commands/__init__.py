"""What people type at `silo-agent`, a module a command or group of commands."""
