"""Pure functions over PyNaCl and PyJWT: sealing, signatures, tokens."""
