"""The two examples that a new server is tried with: one query, four passages and eight."""

QUERY = "What is Deep Learning?"

FOUR_PASSAGES = (
    "Deep learning is a subset of machine learning that uses neural networks with many layers",
    "The weather is nice today",
    "Deep learning enables computers to learn from large amounts of data",
    "I like pizza",
)

EIGHT_PASSAGES = (
    "Deep learning is a subset of machine learning that uses neural networks with multiple layers"
    " to progressively extract higher-level features from raw input",
    "Machine learning algorithms enable computers to learn from data without being explicitly"
    " programmed",
    "The latest smartphone features advanced AI capabilities for photo enhancement",
    "Deep learning has revolutionized computer vision, enabling tasks like facial recognition and"
    " object detection",
    "A neural network is inspired by the biological neural networks that constitute animal brains",
    "Cloud computing provides scalable infrastructure for training deep learning models",
    "The history of artificial intelligence dates back to the 1950s",
    "Deep learning models require significant computational resources and large datasets for"
    " training",
)
