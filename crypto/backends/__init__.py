"""One secure sum each: `double_masking`, and `insecure_plaintext` for comparison."""
