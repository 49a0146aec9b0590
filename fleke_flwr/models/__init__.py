"""Language models that can be edited: families, loading, tokens and partial forward passes."""

from fleke_flwr.models.families import FAMILIES, Family, family_of
from fleke_flwr.models.loading import EditableModel, load_model

__all__ = ["FAMILIES", "EditableModel", "Family", "family_of", "load_model"]
