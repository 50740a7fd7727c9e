"""IDOL: instances found by deformable DETR, and linked by embeddings learned by contrast.

Source: Wu et al., "In defense of online models for video instance segmentation", ECCV 2022. Section and equation
numbers are the paper's; where its released code differs there is a named switch. Beside the paper open

    config.py       every choice, and presets of paper and released code
    transformer.py  deformable encoder and decoder, boxes refined layer by layer (3.2)
    masks.py        mask branch and dynamic head (3.2)
    network.py      all of it, from normalised images to classes, boxes, masks and embeddings of every query
"""
