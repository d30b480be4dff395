"""Checkpoints that are ordinary Hugging Face directories: save, dense export, load, and the transformers plug-in.

``import autolr`` passes through here, so this file imports nothing.
"""
