"""The train and evaluation steps: pure functions of one device's share of a batch, mapped over devices."""
