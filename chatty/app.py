"""The only wiring: settings in, a running application out."""
