"""The dense model, the calibration text, and running one on the other."""
