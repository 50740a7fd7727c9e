"""The rows of Tables 1 and 4 of Johander et al., "Video instance segmentation with recurrent graph neural networks",
2021, each by a short name: one switch of `RgnnConfig` changed."""

from vis_models.rows import BASE, Row

ROWS = {
    BASE: Row(1, "Proposed approach", 35.3),
    "limited": Row(1, "Limited GNN", 28.6, {"gnn": "limited"}),
    "masktrack": Row(1, "Association from [31]", 29.2, {"association": "masktrack"}),
    "no_appearance": Row(1, "No appearance", 34.5, {"appearance": "none"}),
    "constant_variance": Row(1, "Appearance const. variance", 33.0, {"appearance": "constant_variance"}),
    "appearance_lstm": Row(1, "Appearance update with LSTM", 34.0, {"appearance": "lstm"}),
    "appearance_embedding": Row(1, "Appearance baked into embedding", 34.4, {"appearance": "embedding"}),
    "majority": Row(1, "Scoring from [31]", 31.5, {"scoring": "majority"}),
    "detector_mean": Row(1, "Scoring via yolact average", 30.7, {"scoring": "detector_mean"}),
    "no_gating": Row(1, "No LSTM-like gating", None, {"gating": "none"}, diverges=True),
    "simple": Row(1, "Simple gate", 31.5, {"gating": "simple"}),
    "resnet101": Row(1, "ResNet101", 37.7, {"detector.backbone.depth": 101}),
    "mlp_updates": Row(4, "MLP Node Updates", 34.1, {"node_update": "mlp"}),
    "one_block": Row(4, "1 GNN Block", 32.4, {"gnn_blocks": 1}),
    "three_blocks": Row(4, "3 GNN Blocks", 35.2, {"gnn_blocks": 3}),
    "no_residual": Row(4, "No Interleaved Residual Blocks", 33.3, {"gnn_residual": False}),
}
