"""What a model knows of its language: probes of its layers, and minimal pairs."""
