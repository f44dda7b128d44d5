"""Measurements, side by side: each module prints the table that the docs show."""
