"""Text out of a trained model: states, sampling, generation; this page alone never imports torch."""
