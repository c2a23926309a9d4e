"""What a process of either role needs of the machine that it runs on."""
