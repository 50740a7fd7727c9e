"""The rows of Tables 6 and 7 of Wu et al., "In defense of online models for video instance segmentation", ECCV 2022:
what embeddings learn, how their examples are chosen, and how they are matched.

Rows that differ in `match` and `temporal` alone are rules for the same weights; `embed_loss` and `select` are trained.
"""

from vis_models.rows import BASE, Row

_ID = {"embed_loss": "id"}
_IOU = {"select": "iou"}
_CUES = {"match": "multicue", "temporal": False}
_NOW = {"temporal": False}

ROWS = {
    BASE: Row(6, "Contrastive, OT, embeddings, temporal", 46.4, published_ovis_ap=30.2),
    "id_multicue": Row(6, "ID head, multi-cues", 30.3, _ID | _CUES, published_ovis_ap=11.0),
    "id_embedding": Row(6, "ID head, embeddings", 33.6, _ID | _NOW),
    "id_temporal": Row(6, "ID head, embeddings, temporal", 34.8, _ID),
    "iou_multicue": Row(6, "Contrastive, multi-cues", 31.8, _IOU | _CUES, published_ovis_ap=18.4),
    "iou_embedding": Row(6, "Contrastive, embeddings", 42.5, _IOU | _NOW, published_ovis_ap=26.7),
    "ot_embedding": Row(6, "Contrastive, OT, embeddings", 44.8, _NOW, published_ovis_ap=28.3),
}
"""AP of Table 6, YouTube-VIS 2019, and of Table 7, OVIS."""
