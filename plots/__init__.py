"""Plots of one trained model, a file for each kind. plot.py chooses among them by --what."""
