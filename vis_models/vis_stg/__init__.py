"""VisSTG: instances of two frames in one graph, whose nodes are detected and segmented, and whose edges track.

Source: Wang et al., "End-to-end video instance segmentation via spatial-temporal graph neural networks", ICCV 2021.
Section and equation numbers are the paper's. It has no public code: where it is silent, what is done here is marked
`Ours`, and where two readings are sensible there is a named switch. Beside the paper open

    config.py       every choice
    grid.py         the cells of all levels of the pyramid in one row
    graph.py        instances of the reference frame and cells of the target, Eq. (1) and (2) (3.2)
    centres.py      CenterNet: heat maps, their targets and losses, and what is read from them (3.3)
    propagation.py  filters of the reference frame, carried to the target (3.4)
    network.py      all of it, from normalised images to maps
    objective.py    what a pair of frames teaches, Eq. (3) to (6) (3.6)
    association.py  which detection continues which track (3.5)
    tracker.py      a frame of each film, a step of its memory (3.6); state.py is that memory
    model.py        the contract: encode, start, step, finish, loss
    rows.py         the rows of its tables
"""
