"""Sensors of this machine, one file a vendor, sampled by a process of their own."""
