"""What each release kind's opened sum becomes."""
