"""What is in a data set: its classes, its depths, what is missing, and class weights for rare classes."""

from mtlflax.data.statistics.counting import Counts, count

__all__ = ["Counts", "count"]
