"""What people look at: thin shells over the analyses."""
