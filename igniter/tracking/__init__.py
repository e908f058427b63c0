"""What a run reports while it trains: the journal, MLflow and the progress display."""
