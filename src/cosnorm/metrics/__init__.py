"""Whether embeddings work: retrieval, verification, nearest neighbours; in tiles, over processes."""

from cosnorm.metrics.neighbours import knn_accuracy, knn_predict
from cosnorm.metrics.retrieval import retrieval_metrics
from cosnorm.metrics.verification import verification_metrics

__all__ = ["knn_accuracy", "knn_predict", "retrieval_metrics", "verification_metrics"]
