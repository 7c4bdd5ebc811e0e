"""Protocol A as tests shorten it."""

from geodm_lightning.evaluation.protocol import Protocol

SHORT_A = Protocol(
    name="A",
    epochs=25,
    published_epochs=1000,
    batch_size=256,
    optimizer="sgd",
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    milestones=(0.5,),
    gamma=0.1,
    augmentation="color_crop",
    augmentation_mode="one",
    network="convnet",
    num_students=3,
    whole_steps=500,
)
