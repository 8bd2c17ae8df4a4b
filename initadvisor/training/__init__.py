"""What is a training? Data, loss, optimizer and schedule as their owner wrote them."""
