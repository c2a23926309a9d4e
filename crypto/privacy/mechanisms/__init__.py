"""What makes a sum private: one mechanism a file. None knows the accountant."""
