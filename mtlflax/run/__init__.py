"""What a run reads and writes: its workdir, checkpoints, metrics and progress."""
