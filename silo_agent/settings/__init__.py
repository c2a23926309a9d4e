"""What a person sets: one YAML file, over it environment and command line, read within bounds."""
