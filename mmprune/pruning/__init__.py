"""How much goes and from where."""
