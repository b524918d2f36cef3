"""How much memory a training step needs: counting live tensors, forecasting a step, planning what fits a GPU."""
