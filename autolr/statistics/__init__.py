"""Calibration: what each layer sees and what the loss asks of it."""
