"""RGNN: tracks that a graph network associates, starts and scores, frame by frame.

Source: Johnander et al., "Video instance segmentation with recurrent graph neural networks", GCPR 2021, over the
detector of `yolact/`. Equation, section and table numbers are the paper's; where the authors' released code differs
there is a named switch with the values `paper` and `released`. Beside the paper open

    config.py       every choice; the rows of Tables 1 and 4
    model.py        the model: one frame from detections to masks (section 3)
    state.py        what a frame hands to the next: tracks, the empty track
    graph.py        the graph network (3.2, Table 3) and the gate of eq. (2)
    appearance.py   pooling under masks, for the appearance (3.3)
    losses.py       the training objective (3.5), and targets.py what is true of tracks and detections
    ablations.py    what takes the place of parts in the rows of the tables
"""
