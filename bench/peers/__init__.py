"""Chatty beside other chat servers: the same scenarios, generator and machine, in one run (`make bench-peers`)."""
