"""What is on the network, shared by server and clients: Structs, codecs, limits, the chain, signed bytes, room authority."""
