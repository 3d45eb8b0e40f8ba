"""Sharing a trained model: its card, what is known of the benchmarks, publishing, and the handler of an endpoint."""
