"""A study's trials: its folder, its journal or database, the queue, the front."""
