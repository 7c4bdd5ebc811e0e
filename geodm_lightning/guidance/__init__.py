"""What pushes a sample while it is denoised: gradients of transport, deviation and influence."""

from geodm_lightning.guidance.combined import CombinedGuidance
from geodm_lightning.guidance.deviation import DeviationGuidance
from geodm_lightning.guidance.ground import AbsoluteGround, GroundCost, ProductGround
from geodm_lightning.guidance.guidance import WINDOW, Guidance
from geodm_lightning.guidance.influence import (
    InfluenceGuidance,
    class_gradients,
    sample_gradients,
)
from geodm_lightning.guidance.transport import TransportGuidance

__all__ = [
    "WINDOW",
    "AbsoluteGround",
    "CombinedGuidance",
    "DeviationGuidance",
    "GroundCost",
    "Guidance",
    "InfluenceGuidance",
    "ProductGround",
    "TransportGuidance",
    "class_gradients",
    "sample_gradients",
]
