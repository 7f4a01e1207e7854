"""Run folders on disk: configuration, logs, checkpoints, evidence, and control commands."""
