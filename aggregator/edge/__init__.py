"""Where silos connect: the port, who calls, and which call of the rounds or of the identity service an RPC is."""
