"""How much memory a training step needs: counted, forecast, planned."""
