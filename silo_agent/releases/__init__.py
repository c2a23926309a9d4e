"""The silo's side of each release kind."""
