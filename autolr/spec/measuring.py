"""Which options of the specification commands read that need no study; the Python API refuses all others there."""

LOADING = ("device", "dtype", "offline", "trust_remote_code")
"""Of loading a checkpoint."""
EVALUATION = (
    "premise_column", "hypothesis_column", "label_column", "label_names", "text_column", "template", "words",
    "seq_len", "device", "dtype", "scoring_batch_size", "offline", "trust_remote_code",
)  # fmt: skip
"""Of scoring a checkpoint on data of a task."""
TRIMMING = (
    "dataset", "premise_column", "hypothesis_column", "label_column", "label_names", "text_column", "template", "words",
    "seq_len", "scoring_batch_size", "offline", "trust_remote_code",
)  # fmt: skip
"""Of reading a task's data with a model's tokenizer."""
BENCH = ("batch_size", "seq_len", "lengths", "device", "dtype", "threads", "offline", "trust_remote_code")
"""Of timing checkpoints."""
PROBING = (
    "pooling", "seed", "device", "dtype", "scoring_batch_size", "threads", "offline", "trust_remote_code",
)  # fmt: skip
"""Of probing a checkpoint, besides the numbers of sentences."""
