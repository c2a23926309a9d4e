"""What both roles compute alike of a pruning, without torch: how many weights, which blocks, who prunes which."""
