"""Turning results into text."""
