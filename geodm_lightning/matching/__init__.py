"""Real and synthetic features → loss terms, one value per class."""

from geodm_lightning.matching.centroid import CentroidMatching
from geodm_lightning.matching.characteristic import CharacteristicMatching
from geodm_lightning.matching.coupling import OptimalTransport
from geodm_lightning.matching.geodm import GeometricMatching
from geodm_lightning.matching.history import PrototypeHistory
from geodm_lightning.matching.kernels import KernelMatching
from geodm_lightning.matching.moments import CovarianceMatching, MeanMatching
from geodm_lightning.matching.sampler import FrequencySampler
from geodm_lightning.matching.scaling import ScaledFeatures, scale_features
from geodm_lightning.matching.transport import TransportMatching, TransportTerms

__all__ = [
    "CentroidMatching",
    "CharacteristicMatching",
    "CovarianceMatching",
    "FrequencySampler",
    "GeometricMatching",
    "KernelMatching",
    "MeanMatching",
    "OptimalTransport",
    "PrototypeHistory",
    "ScaledFeatures",
    "TransportMatching",
    "TransportTerms",
    "scale_features",
]
