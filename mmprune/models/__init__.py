"""What is trained and what comes out."""
