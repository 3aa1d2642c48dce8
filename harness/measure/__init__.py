"""The measured process: worker, windows, telemetry, profiler."""
