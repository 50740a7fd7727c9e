"""The rows of Tables 1 and 2 of Wang et al., "End-to-end video instance segmentation via spatial-temporal graph neural
networks", ICCV 2021: how features of two frames are fused, what links detections, whether filters are carried, and how
often the graph is gone round.

Every row changes what weights are trained for, and is trained whole. Those of Table 2 are without multi-scale training,
so that its best stands 1.3 below the proposed approach.
"""

from vis_models.rows import BASE, Row

_EMBEDDING = {"association": "embedding"}
_ALONE = {"propagation": False}

ROWS = {
    BASE: Row(1, "VisSTG, 3 iterations", 36.5),
    "iterations_1": Row(1, "1 iteration", 32.1, {"gnn_iterations": 1}),
    "iterations_2": Row(1, "2 iterations", 35.3, {"gnn_iterations": 2}),
    "iterations_4": Row(1, "4 iterations", 36.0, {"gnn_iterations": 4}),
    "none_embedding": Row(2, "No fusion, embedding", 31.6, {"fusion": "none"} | _EMBEDDING | _ALONE),
    "concat_embedding": Row(2, "Concat, embedding", 32.1, {"fusion": "concat"} | _EMBEDDING | _ALONE),
    "relation_offset": Row(2, "Relation, offset", 32.6, {"association": "offset"} | _ALONE),
    "relation_embedding": Row(2, "Relation, embedding", 33.4, _EMBEDDING | _ALONE),
    "relation_edge": Row(2, "Relation, edge feature", 34.8, _ALONE),
    "none_embedding_propagation": Row(2, "No fusion, embedding, propagation", 32.0, {"fusion": "none"} | _EMBEDDING),
    "relation_embedding_propagation": Row(2, "Relation, embedding, propagation", 33.9, _EMBEDDING),
}
"""AP on YouTube-VIS 2019."""
