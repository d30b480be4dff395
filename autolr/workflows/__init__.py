"""The jobs that autolr does, one file each."""
