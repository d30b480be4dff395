"""Races: candidates that are dominated with confidence are not scored to the end."""
