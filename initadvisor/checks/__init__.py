"""What is wrong with the weights as they are now? An audit without training, each finding with a stable code."""
