"""The chaos run: training stopped in every way, at every moment, and compared bit for bit."""
