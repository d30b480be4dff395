"""What the processes of a machine share: atomic writes, locks, temporary folders, tensors kept on disk."""
