"""Measure, explain and judge Mixture-of-Experts inference on consumer and edge hardware."""
