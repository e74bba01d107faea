"""Doubles that ship with the product and pass the same contracts as the real parts."""
