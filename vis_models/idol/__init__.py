"""IDOL: instances found by deformable DETR, and linked by embeddings learned by contrast.

Source: Wu et al., "In defense of online models for video instance segmentation", ECCV 2022. Section and equation
numbers are the paper's; where its released code differs there is a named switch. Beside the paper open

    config.py       every choice, and presets of paper and released code
    transformer.py  deformable encoder and decoder, boxes refined layer by layer (3.2)
    masks.py        mask branch and dynamic head (3.2)
    network.py      all of it, from normalised images to classes, boxes, masks and embeddings of every query
    layouts.py      published checkpoints: its own, Deformable DETR, Swin, ResNet
    matching.py     which query learns which object (A.2)
    losses.py       terms of one layer, and contrast of two frames (3.1, 3.2)
    objective.py    all terms of a batch, Eq. (2)
    association.py  which detection continues which track, Eq. (5) to (7)
    tracker.py      a frame of a film, a step of its memory (3.3); state.py is that memory
    model.py        the contract: encode, start, step, finish, loss
    rows.py         the rows of its tables
"""
