"""Real and synthetic features → loss terms, one value per class."""

from geodm_lightning.matching.characteristic import CharacteristicMatching
from geodm_lightning.matching.geodm import GeometricMatching
from geodm_lightning.matching.moments import MeanMatching
from geodm_lightning.matching.scaling import ScaledFeatures, scale_features
from geodm_lightning.matching.transport import TransportMatching, TransportTerms

__all__ = [
    "CharacteristicMatching",
    "GeometricMatching",
    "MeanMatching",
    "ScaledFeatures",
    "TransportMatching",
    "TransportTerms",
    "scale_features",
]
