"""What operations, layers and modules do to channel labels."""
