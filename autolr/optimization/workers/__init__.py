"""Many workers: Ray Tune runs the trials of a study in processes on one machine or a cluster."""
