"""Executable models of the protocol: every state of a small world, each rule shown to be needed."""
