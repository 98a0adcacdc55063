"""What a run reads and writes: its config file, workdir, checkpoints, metrics, pictures and progress."""
