"""What the model writes: calibration text that needs nobody's data, and how it goes on from a prompt."""
