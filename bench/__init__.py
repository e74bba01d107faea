"""What Chatty costs, measured: `python -m bench` (all scenarios), `python -m bench.compare`, `python -m bench.runtime`."""
