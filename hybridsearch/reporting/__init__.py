"""What a search shows of itself: points of the front, figures, MLflow runs. It decides nothing and stores no truth."""
