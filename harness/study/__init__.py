"""The parent process: configuration, plan, gates, runner, store, environments."""
