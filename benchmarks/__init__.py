"""Measurements: each program prints a table, most of which the documentation shows."""
